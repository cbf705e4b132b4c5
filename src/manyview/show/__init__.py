"""What a person sees: plans, pictures, progress."""
