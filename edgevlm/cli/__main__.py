"""python -m edgevlm.cli"""

from edgevlm.cli.app import main

if __name__ == "__main__":
    main()
