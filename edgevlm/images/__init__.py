"""Pictures to arrays: files, messages of cameras, and what their headers announce."""
