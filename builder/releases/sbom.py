"""The parts list of a release: its packages as CycloneDX, out of apk's database in the chroot."""

from __future__ import annotations

import tarfile
from pathlib import Path

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot5
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL

from builder.alpine.apk_database import read_database
from builder.alpine.chroot import DATABASE
from updater.formats import Manifest


def installed(chroot: Path) -> dict[str, dict[str, str]]:
    """The packages in a chroot.tar: the fields of apk's database by the name of the package."""
    with tarfile.open(chroot) as tar:
        reader = tar.extractfile(DATABASE)
        assert reader is not None, DATABASE
        database = reader.read().decode(errors="replace")  # a list for people and programs
    return {package.fields["P"]: dict(package.fields) for package in read_database(database)}


def sbom(packages: dict[str, dict[str, str]], system: Manifest) -> str:
    """The parts list as JSON: the same text for the same packages."""
    parts = []
    for name, fields in sorted(packages.items()):
        url = PackageURL("apk", "alpine", name, fields["V"], {"arch": fields["A"]})
        parts.append(
            Component(
                name=name,
                version=fields["V"],
                type=ComponentType.LIBRARY,
                purl=url,
                bom_ref=str(url),
                description=fields.get("T", ""),
                licenses=[_license(fields.get("L", ""))],
            )
        )
    root = Component(
        name=system.os, version=system.version, type=ComponentType.OPERATING_SYSTEM, bom_ref="os"
    )
    bom = Bom(components=parts, metadata=BomMetaData(component=root))
    bom.register_dependency(root, parts)
    text = JsonV1Dot5(bom).output_as_string(indent=1)
    return _without_chance(text)


def _license(text: str) -> LicenseExpression | DisjunctiveLicense:
    """Alpine mostly writes SPDX expressions, though older ones with spaces for AND."""
    try:
        if text and not get_spdx_licensing().validate(text).errors:
            return LicenseExpression(text)
    except ExpressionError:
        pass
    return DisjunctiveLicense(name=text or "unknown")


def _without_chance(text: str) -> str:
    """Without the random serial number and the time: a release is the same whoever makes it."""
    import json

    values = json.loads(text)
    values.pop("serialNumber", None)
    values.get("metadata", {}).pop("timestamp", None)
    return json.dumps(values, indent=1, sort_keys=True) + "\n"
