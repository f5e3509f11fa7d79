"""llama.cpp's tools, each as a program of its own: what they import, log and abort stays out of ours."""
