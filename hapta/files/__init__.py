"""Files: validated uploads and downloads, on disk or S3."""
