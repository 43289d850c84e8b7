"""Architectures no library ships, as plain torch modules in separately traceable parts."""
