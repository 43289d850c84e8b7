"""What a bundle says of itself: the types of manifest.json. Nothing here touches a file."""
