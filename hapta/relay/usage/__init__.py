"""What agents used: tokens and cost by session, and the limits that their vendors told."""
