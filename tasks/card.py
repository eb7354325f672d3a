"""A package's card: what a person needs to know before trusting it."""

from __future__ import annotations

from tasks.manifest import Manifest


def render(manifest: Manifest) -> str:
    """The card as Markdown, from the manifest alone. Scores are not in it: they come after."""
    base, data = manifest.base, manifest.data
    labels = "\n".join(f"| {label} | {count} |" for label, count in data["labels"].items())
    return f"""# {manifest.name}

**For:** {manifest.intended_use}
**Not for:** {manifest.limits}
**Languages:** {", ".join(manifest.languages)}

| | |
| --- | --- |
| base model | {base.source} |
| base licence | {base.licence} |
| base sha256 | `{base.sha256}` |
| architecture | {base.architecture}, {base.parameters / 1e6:.0f} million parameters |
| longest prompt | {manifest.max_prompt_tokens} tokens |
| data owner | {data["owner"]} |
| data licence | {data["licence"]} |
| data last updated | {data["updated"]} |
| training rows | {data["training_rows"]} |

![Loss during training](adapter/loss.png)

| request kind | training rows |
| --- | --- |
{labels}
"""
