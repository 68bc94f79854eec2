"""Files on their way to PocketBase: what they are by their content, how they may be called, how large and how many they may be."""
