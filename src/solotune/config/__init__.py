"""What a run is asked to do: typed, frozen, with every key checked."""
