"""The HTTP service and the demo. Importing this package imports nothing: take the module you need."""
