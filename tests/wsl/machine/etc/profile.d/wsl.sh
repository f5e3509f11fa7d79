PATH="$PATH:/usr/lib/wsl/lib:/mnt/c/Windows/System32"
