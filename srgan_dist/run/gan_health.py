"""The health of a GAN while it trains: metrics that show trouble, and a warning in words when it persists."""

from srgan_dist.evaluation.texture import shows_pattern

HELD_UPDATES = (
    500  # over which every record shows the trouble: single batches and the first updates mean nothing
)
QUIET_UPDATES = 10_000  # between two warnings of one kind
WON_REAL, WON_FAKE = 0.95, 0.05  # mean probabilities, beyond which hardly a crop is left to be wrong about
LOST_GAP = 0.02  # between d/real and d/fake: sampling alone makes that much in means over batches
DOMINANT_SHARE = 0.95  # of the objective: 19 times all other terms together
MEAN_SHIFT = 1.0  # percent of the range, 2.5 of 255 levels; networks of the demo stay below 0.35
# Percent of the range; blur alone puts bicubic 0.3 to 2.4 from HR, networks of the demo less
WORSE_THAN_BICUBIC = 1.0


def shares(metrics, weights):
    """Return {"health/share/<term>": share of the term in the generator's objective, 0 to 1}.

    metrics: means with loss/<term>. weights: {term: its factor}. Empty where no term is known or all are
    zero.
    """
    parts = {
        name: abs(weight * metrics[f"loss/{name}"])
        for name, weight in weights.items()
        if f"loss/{name}" in metrics
    }
    total = sum(parts.values())
    return {f"health/share/{name}": part / total for name, part in parts.items()} if total > 0 else {}


class HealthMonitor:
    """Looks at records and says what stays bad: each kind at most once in QUIET_UPDATES."""

    def __init__(self):
        self.since, self.warned = {}, {}

    def check(self, metrics, updates, at_end=False):
        """Return warnings, one line each, after a record of the training or of a validation at `updates`.

        at_end: this validation is the last one of its phase, whose weights have what it shows; it warns of
        what no warning has been about, however short the phase was.
        """
        lines = []
        for kind, sentence in diagnose(metrics).items():
            if sentence is None:
                self.since.pop(kind, None)
                continue
            held = updates - self.since.setdefault(kind, updates)
            if held >= HELD_UPDATES and updates - self.warned.get(kind, -QUIET_UPDATES) >= QUIET_UPDATES:
                when = f"for {held} updates"
            elif at_end and kind not in self.warned:
                when = "at the end of the phase"
            else:
                continue
            self.warned[kind] = updates
            lines.append(f"warning: {when} {sentence}")
        return lines


def diagnose(metrics):
    """Return {kind: sentence, or None where all is well} for every kind of trouble that these metrics can
    show.
    """
    diagnosis = {}
    if "d/real" in metrics and "d/fake" in metrics:
        diagnosis |= _diagnose_discriminator(metrics["d/real"], metrics["d/fake"])
    terms = {
        name.removeprefix("health/share/"): share
        for name, share in metrics.items()
        if name.startswith("health/share/")
    }
    if len(terms) > 1:
        diagnosis["terms"] = _diagnose_terms(terms)
    if "val/mean_shift" in metrics:
        diagnosis["grey levels"] = _diagnose_grey_levels(
            metrics["val/mean_shift"],
            metrics["val/histogram_distance"],
            metrics["val/histogram_distance_bicubic"],
        )
    for name, excess in metrics.items():
        split, _, rock = name.partition("/rock/lattice_excess/")
        if rock:
            dependence = metrics[f"{split}/rock/phase_dependence/{rock}"]
            diagnosis[f"pattern of {rock}, {split}"] = _diagnose_pattern(split, rock, dependence, excess)
    return diagnosis


def _diagnose_discriminator(real, fake):
    seen = f"(d/real {real:.2f}, d/fake {fake:.2f})"
    won = (
        f"the discriminator has separated HR from SR almost without error {seen}: it has won, and the"
        " generator learns little about texture from it. Try a smaller"
        " adversarial.discriminator_learning_rate, a larger adversarial.adversarial_weight or more updates"
        " of phase 1"
    )
    lost = (
        f"the discriminator has not separated HR from SR {seen}: it has lost, or SR is as good as HR (see"
        " val/spectrum_error and the panels). If it is not, try a larger"
        " adversarial.discriminator_learning_rate or a smaller adversarial.adversarial_weight"
    )
    return {
        "discriminator won": won if real > WON_REAL and fake < WON_FAKE else None,
        "discriminator lost": lost if real - fake < LOST_GAP else None,
    }


def _diagnose_terms(terms):
    name, share = max(terms.items(), key=lambda term: term[1])
    if share <= DOMINANT_SHARE:
        return None
    others = " and ".join(other for other in terms if other != name)
    return (
        f"the term {name} has made up {share:.1%} of the generator's objective and outweighs {others}. Try a"
        f" smaller weight of {name} or larger ones of the others; health/share/* show what they do"
    )


def _diagnose_grey_levels(shift, distance, bicubic):
    if abs(shift) <= MEAN_SHIFT and distance <= bicubic + WORSE_THAN_BICUBIC:
        return None
    return (
        f"the grey levels of SR have been shifted against HR (val/mean_shift {shift:+.2f} %,"
        f" val/histogram_distance {distance:.2f} %, bicubic's {bicubic:.2f} %, of the range): thresholds"
        " that were chosen on HR, and porosity with them, do not hold for SR. Try a larger weight of the"
        " pixel loss, smaller ones of the other terms, or a smaller learning_rate"
    )


def _diagnose_pattern(split, rock, dependence, excess):
    if not shows_pattern(dependence, excess):
        return None
    return (
        f"SR of {rock} has shown a pattern with the period of the upsampling, above what HR shows"
        f" ({split}/rock/phase_dependence/{rock} {dependence:+.3f}, {split}/rock/lattice_excess/{rock}"
        f" {excess:+.1f} dB): texture, interface and thin pores cannot be trusted. Try a stationarity loss,"
        " generator.noise=2 and generator.upsampling=nearest_before"
    )
