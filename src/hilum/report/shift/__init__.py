"""The page of a directory that ``hilum shift`` has written."""
