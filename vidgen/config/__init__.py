"""Gin: where configuration files are found, and how runs are built from them."""
