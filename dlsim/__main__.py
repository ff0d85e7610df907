"""`python -m dlsim`: the command line."""

from dlsim.terminal.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
