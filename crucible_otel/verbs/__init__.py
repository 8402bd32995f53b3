"""What people call, one module a family."""
