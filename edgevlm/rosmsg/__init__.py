"""What live topics and recordings share: message definitions, paths into messages."""
