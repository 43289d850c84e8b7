"""Does a bundle do what its source does? One comparison for each task, metrics, controls and corruptions."""
