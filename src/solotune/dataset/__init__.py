"""Raw rows in, clean rows on the side where they belong. No torch."""
