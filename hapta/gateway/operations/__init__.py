"""Operations on records: the one path from a door to PocketBase and back."""
