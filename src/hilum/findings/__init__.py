"""What a radiograph can show: names, aliases, label policies."""
