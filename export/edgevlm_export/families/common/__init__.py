"""What several families share: reading checkpoints, upstream's own classes, prompts, layers."""
