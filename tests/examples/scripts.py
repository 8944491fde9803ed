#!/usr/bin/env python3
"""Writes the shell that is inside of other files into files of its own, for shellcheck: scripts.py FOLDER FILE...

From YAML: `script`, `before_script` and `after_script` of GitLab, `script: |` of Tekton, `args` of containers that run
`/bin/sh -ec`, and fenced blocks of Markdown are left alone. From a Jenkinsfile: what stands in `sh '...'` and `sh '''...'''`.
Prints the files' names.
"""
import pathlib
import re
import sys

import yaml


def of_yaml(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("script", "before_script", "after_script"):
                lines = value if isinstance(value, list) else [value]
                yield "\n".join(lines)
            else:
                yield from of_yaml(value)
        if node.get("command", [""])[0] == "/bin/sh":
            yield from node.get("args", [])
    elif isinstance(node, list):
        for item in node:
            yield from of_yaml(item)


def of_jenkinsfile(text):
    for long, short in re.findall(r"\bsh '''(.*?)'''|\bsh '([^'\n]*)'", text, re.DOTALL):
        yield long or short


def main(folder, files):
    count = 0
    for name in map(pathlib.Path, files):
        text = name.read_text(encoding="utf-8")
        if name.name == "Jenkinsfile":
            found = list(of_jenkinsfile(text))
        else:
            found = [s for document in yaml.safe_load_all(text) for s in of_yaml(document)]
        for script in found:
            count += 1
            # Tekton puts parameters in before the shell sees them.
            script = re.sub(r"\$\((params|workspaces)\.[a-z.]+\)", "value", script)
            out = pathlib.Path(folder) / f"{count:02}-{name.stem.strip('.')}.sh"
            first = "" if script.startswith("#!") else "#!/bin/sh\n"
            # Set by the CI system, or by the shell's options there.
            out.write_text(f"{first}{script}\n", encoding="utf-8")
            print(out)


main(sys.argv[1], sys.argv[2:])
