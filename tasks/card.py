"""A package's card: what a person needs to know before trusting it."""

from __future__ import annotations

from tasks.manifest import Fidelity, Manifest


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
{_weights(manifest.fidelity)}
![Loss during training](adapter/loss.png)

| request kind | training rows |
| --- | --- |
{labels}
"""


def _weights(fidelity: Fidelity | None) -> str:
    """The rows on exported weights; other engines serve what was trained."""
    if fidelity is None:
        return ""
    return f"""| served weights | 8 bits, adapter merged; compared with float32 on {fidelity.rows} eval conversations: |
| perplexity of assistant turns | {fidelity.perplexity:.3f} (float32: {fidelity.float32_perplexity:.3f}) |
| same next token as float32 | {fidelity.greedy_agreement:.1%} of {fidelity.tokens} |
"""
