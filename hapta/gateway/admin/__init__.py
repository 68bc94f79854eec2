"""What operators of the gateway may see and do, by their own key."""
