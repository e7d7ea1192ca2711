"""Phantom hospitals: synthetic chest radiographs with exact boxes and masks."""
