# SPDX-License-Identifier: Apache-2.0
"""`python -m umbp` and the command `umbp`: the program that lies in the package."""
import os
import sys


def main():
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin", "umbp")
    try:
        os.execv(program, ["umbp", *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"umbp: {program}: {error.strerror}")


if __name__ == "__main__":
    main()
