"""The model card of a package: its constraint sheet and its loss curve, for people.

The release card (`tasks/reports/release_card.py`) adds the measurements later.
"""

from __future__ import annotations

from tasks.model_package.manifest import Fidelity, Manifest
from tasks.text.markdown import escape, row


def render(manifest: Manifest, picture: str, warning: str = "") -> str:
    """The card as Markdown, from the manifest alone.

    Args:
        manifest: the package's manifest.
        picture: path of the loss curve, relative to the card.
        warning: a line above the sheet; empty for none.
    """
    above = f"\n**{escape(warning)}**\n" if warning else ""
    base, data, sheet = manifest.base, manifest.data, manifest.constraints
    forbidden = "\n".join(f"- {escape(use)}" for use in sheet.forbidden_uses)
    labels = "\n".join(row((label, count)) for label, count in data["labels"].items())
    limit = f"{sheet.base_context_tokens} tokens" if sheet.base_context_tokens else "not named"
    return f"""# {escape(manifest.name)}
{above}
**For:** {escape(sheet.intended_use)}

**Not for:**

{forbidden}

**Languages:** {escape(", ".join(sheet.languages))}

| | |
| --- | --- |
| base model | {escape(base.source)} |
| base licence | {escape(sheet.base_licence)} |
| base sha256 | `{base.sha256}` |
| architecture | {escape(base.architecture)}, {base.parameters / 1e6:.0f} million parameters |
| longest prompt | {manifest.max_prompt_tokens} tokens |
| longest prompt with its answer | {sheet.context_tokens} tokens (the base's limit: {limit}) |
| data owner | {escape(sheet.data_owner)} |
| data licence | {escape(sheet.data_licence)} |
| data last updated | {sheet.data_updated}; old after {sheet.review_by} |
| training rows | {data["training_rows"]} |
{_weights(manifest.fidelity)}
![Loss during training]({picture})

| request kind | training rows |
| --- | --- |
{labels}
"""


def _weights(fidelity: Fidelity | None) -> str:
    """The rows on exported weights; empty for engines that serve the adapter as trained."""
    if fidelity is None:
        return ""
    return f"""| served weights | 8 bits, adapter merged; compared with float32 on {fidelity.rows} eval conversations: |
| perplexity of assistant turns | {fidelity.perplexity:.3f} (float32: {fidelity.float32_perplexity:.3f}) |
| same next token as float32 | {fidelity.greedy_agreement:.1%} of {fidelity.tokens} |
"""
