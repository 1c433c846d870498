"""What several test files share. Nothing here computes an expectation with Clearline's own code."""
