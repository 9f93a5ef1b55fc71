#!/usr/bin/env python3
"""Makes an archive of a container image from a folder, without a registry.

usage: image.py OUT.tar NAME:TAG FOLDER ENTRYPOINT...
"""
import hashlib
import io
import json
import os
import sys
import tarfile


def layer_of(folder):
    """The folder as the image's only layer: the same bytes for the same files."""
    def plain(info):
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in sorted(os.listdir(folder)):
            archive.add(os.path.join(folder, name), arcname=name, filter=plain)
    return layer.getvalue()


def main():
    out, name, folder, *entrypoint = sys.argv[1:]
    layer = layer_of(folder)
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}])
    with tarfile.open(out, "w") as archive:
        files = [(config_name, config), ("layer.tar", layer), ("manifest.json", manifest.encode())]
        for file, content in files:
            info = tarfile.TarInfo(file)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


main()
