"""What people have allowed apps, and how they take it back."""
