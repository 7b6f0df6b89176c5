"""`python -m inter2former_deploy` is the command `i2f`."""

from inter2former_deploy.apps.cli import main

if __name__ == "__main__":
    main()
