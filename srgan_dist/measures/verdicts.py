"""Measures in words: what a method brings nearer to HR than another, where the interval leaves no doubt."""

WORDS = {
    "grey_error": "grey levels",
    "porosity": "porosity",
    "specific_interface": "interface",
    "euler_density": "Euler number",
    "two_point_error": "two-point correlation",
    "chord_length": "chords",
    "pore_size": "pore sizes",
    "connected_porosity": "connected porosity",
    "dice": "overlap of pores",
    "invented_pores": "invented pores",
    "frc_resolution": "resolution",
    "permeability": "permeability",
}


def verdict(method, entries, titles):
    """Return a sentence about a method: entries {measure: entry} of it, raw; titles: {method: its name}.

    A measure is named where the interval of the paired difference of |bias| excludes 0.
    """
    if not entries:
        return f"{titles.get(method, method)}: nothing was measured."
    others = list(dict.fromkeys(other for entry in entries.values() for other in entry["against"]))
    if not others:
        return f"{titles.get(method, method)}: the others are compared with it."
    sentences = []
    for other in others:
        groups = {"closer to HR": [], "further from HR": [], "undecided": []}
        for measure, word in WORDS.items():
            entry = entries.get(measure)
            if entry is None:
                continue
            interval = entry["against"].get(other, {}).get("interval")
            if interval is None:
                continue
            kind = (
                "closer to HR" if interval[1] < 0 else "further from HR" if interval[0] > 0 else "undecided"
            )
            groups[kind].append(word)
        found = [
            f"{kind} in {_listed(names)}" for kind, names in groups.items() if names and kind != "undecided"
        ]
        if groups["undecided"]:
            found.append(f"undecided in {_listed(groups['undecided'])}")
        if found:
            sentences.append(f"Against {titles.get(other, other)}: {'; '.join(found)}.")
    if not sentences:
        reason = (
            "fewer than 5 independent images, sources or plugs were measured"
            if all(entry["level"] is None for entry in entries.values())
            else "no interval is known"
        )
        return f"{titles.get(method, method)}: no verdict, for {reason}."
    return " ".join(sentences)


def _listed(words):
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
