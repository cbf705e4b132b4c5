"""Slow NumPy references of the pure losses, written from the papers' equations alone.

Explicit loops, float64, nothing clever: each function is to be read against its equation, not to be fast.
Shapes: features [B, D], logits [B, C], integer labels [B]. P = softmax(logits), row by row.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

COLOR_ORDERS = {
    "color_perm": [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)],
    "color_perm3": [(0, 1, 2), (1, 2, 0), (2, 0, 1)],
}
ORBITS = {  # name: (quarter turns anticlockwise, colour orders); rotation is the outer loop
    "rotation": ([0, 1, 2, 3], [(0, 1, 2)]),
    "rotation2": ([0, 2], [(0, 1, 2)]),
    "color_perm": ([0], COLOR_ORDERS["color_perm"]),
    "color_perm3": ([0], COLOR_ORDERS["color_perm3"]),
    "rot_color_perm6": ([0, 2], COLOR_ORDERS["color_perm3"]),
    "rot_color_perm12": ([0, 1, 2, 3], COLOR_ORDERS["color_perm3"]),
    "rot_color_perm24": ([0, 1, 2, 3], COLOR_ORDERS["color_perm"]),
}


def log_softmax(logits):
    """log P_c = l_c − log Σ_k exp l_k, with the row's maximum taken out first."""
    out = np.zeros(logits.shape)
    for i, row in enumerate(np.asarray(logits, dtype=np.float64)):
        top = max(row)
        out[i] = row - top - math.log(sum(math.exp(value - top) for value in row))
    return out


def kl_rows(log_p, log_q):
    """[B]: KL(P ‖ Q) = Σ_c P_c (log P_c − log Q_c) of each row."""
    rows = zip(log_p, log_q, strict=True)
    return [sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) for p, q in rows]


# --- Tied-Augment ----------------------------------------------------------------------------------


def mse(h1, h2):
    """1/(B·D) Σ (h1 − h2)²."""
    return sum((a - b) ** 2 for a, b in zip(h1.ravel(), h2.ravel(), strict=True)) / h1.size


def mae(h1, h2):
    """1/(B·D) Σ |h1 − h2|."""
    return sum(abs(a - b) for a, b in zip(h1.ravel(), h2.ravel(), strict=True)) / h1.size


def cosine(h1, h2):
    """1 − 1/B Σ_i ⟨h1_i, h2_i⟩ / (‖h1_i‖ ‖h2_i‖)."""
    cosines = [sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)) for a, b in zip(h1, h2, strict=True)]
    return 1 - sum(cosines) / len(cosines)


def l2_norm(h1, h2):
    """Mean squared error of h1/‖h1‖_F and h2/‖h2‖_F."""
    return mse(h1 / math.sqrt(sum(h1.ravel() ** 2)), h2 / math.sqrt(sum(h2.ravel() ** 2)))


def squared_distances(h):
    """[B, B]: ‖h_i − h_j‖²."""
    return np.array([[sum((a - b) ** 2) for b in h] for a in h])


def rbf_sigma(h):
    """σ = sqrt(the lower median of the non-zero squared distances, over all entries of the B×B matrix)."""
    found = sorted(d for d in squared_distances(h).ravel() if d != 0)
    return math.sqrt(found[(len(found) - 1) // 2])


def centred_rbf(h, sigma):
    """[B, B]: K = exp(−d²/2σ²), then K − row means − column means + mean."""
    distances, n = squared_distances(h), len(h)
    kernel = np.array([[math.exp(-d / (2 * sigma**2)) for d in row] for row in distances])
    rows = [sum(kernel[i, :]) / n for i in range(n)]
    columns = [sum(kernel[:, j]) / n for j in range(n)]
    mean = sum(rows) / n
    return np.array([[kernel[i, j] - rows[i] - columns[j] + mean for j in range(n)] for i in range(n)])


def cka(h1, h2, sigmas=None):
    """1 − HSIC(K, L)/sqrt(HSIC(K, K) HSIC(L, L)); HSIC = Σ_ij of the product of the two centred kernels.

    `sigmas` fixes the kernels' widths, for finite differences of a loss that takes no gradient through them.
    """
    s1, s2 = sigmas or (rbf_sigma(h1), rbf_sigma(h2))
    k, m = centred_rbf(h1, s1), centred_rbf(h2, s2)
    return 1 - sum((k * m).ravel()) / math.sqrt(sum((k * k).ravel()) * sum((m * m).ravel()))


def vicreg(h1, h2, weights=(1, 1, 1 / 25)):
    """The weighted sum of invariance, variance and covariance (Bardes, Ponce, LeCun).

    Invariance: MSE. Variance: ½ Σ over both h of 1/D Σ_d max(0, 1 − sqrt(C_dd + 1e-4)).
    Covariance: Σ over both h of 1/D Σ_{i≠j} C_ij², C = 1/(B−1) Σ_n (h_n − h̄)(h_n − h̄)ᵀ.
    """
    variance = covariance = 0.0
    for h in (h1, h2):
        n, width = h.shape
        centred = h - sum(h) / n
        for i in range(width):
            for j in range(width):
                c = sum(centred[:, i] * centred[:, j]) / (n - 1)
                if i == j:
                    variance += 0.5 * max(0.0, 1 - math.sqrt(c + 1e-4)) / width
                else:
                    covariance += c**2 / width
    return weights[0] * mse(h1, h2) + weights[1] * variance + weights[2] * covariance


def similarity(h1, h2, kind):
    """The distance of that kind; cosine_l2_norm is the sum of the two."""
    if kind == "cosine_l2_norm":
        return cosine(h1, h2) + l2_norm(h1, h2)
    return {"mse": mse, "mae": mae, "cosine": cosine, "l2_norm": l2_norm, "cka": cka, "vicreg": vicreg}[kind](h1, h2)


def jensen_shannon(*logits):
    """1/V Σ_v 1/B Σ_i KL(P_v ‖ M), M = 1/V Σ_v P_v held within [1e-7, 1] (AugMix)."""
    logs = [log_softmax(view) for view in logits]
    mixture = sum(np.exp(view) for view in logs) / len(logs)
    log_mixture = np.array([[math.log(min(max(p, 1e-7), 1.0)) for p in row] for row in mixture])
    return sum(sum(kl_rows(view, log_mixture)) / len(view) for view in logs) / len(logs)


def poly1_cross_entropy(logits, labels, epsilon=1.0):
    """1/B Σ_i [−log P_y + ε (1 − P_y)]."""
    picked = [row[y] for row, y in zip(log_softmax(logits), labels, strict=True)]
    return sum(-log_p + epsilon * (1 - math.exp(log_p)) for log_p in picked) / len(picked)


# --- AgMax -----------------------------------------------------------------------------------------


def agreement(l1, l2, kind):
    """mse: of the logits. kl: 1/B Σ_i KL(P_2 ‖ P_1). ce: −1/(B·C) Σ P_1 log P_2."""
    if kind == "mse":
        return mse(l1, l2)
    log1, log2 = log_softmax(l1), log_softmax(l2)
    if kind == "kl":
        return sum(kl_rows(log2, log1)) / len(l1)
    return -sum(math.exp(a) * b for a, b in zip(log1.ravel(), log2.ravel(), strict=True)) / l1.size


def agmax_entropy(l1, l2, joint, epsilon=2.0**-52):
    """1/3 Σ over the three of Σ_c P̄_c log P̄_c; P̄ = column sums of P, normalised, at least epsilon."""
    total = 0.0
    for logits in (l1, l2, joint):
        sums = sum(np.exp(log_softmax(logits)))
        for p in sums / sum(sums):
            p = max(p, epsilon)
            total += p * math.log(p) / 3
    return total


def agmax_divergence(l1, l2, joint, weight=4.0):
    """w · 1/(2B·C) Σ |[P_joint, P_joint] − [P_1, P_2]|, the brackets stacking 2B rows."""
    p1, p2, pj = (np.exp(log_softmax(logits)) for logits in (l1, l2, joint))
    return weight * mae(np.concatenate([pj, pj]), np.concatenate([p1, p2]))


# --- SLA -------------------------------------------------------------------------------------------


def orbit(images, name):
    """[B, m, C, H, W]: each rotation (outer) with each colour order (inner); channel j from order[j]."""
    turns, orders = ORBITS[name]
    out = []
    for image in images:
        views = []
        for turn in turns:
            for order in orders:
                channels = [np.rot90(image[source], turn) for source in order]
                views.append(np.stack(channels))
        out.append(np.stack(views))
    return np.stack(out)


def joint_cross_entropy(joint_logits, labels, m, reduction="mean"):
    """−log P of column y_i·m + t in row i·m + t: mean over B·m rows, or sum over t of means over i."""
    logs, total = log_softmax(joint_logits), 0.0
    for i, y in enumerate(labels):
        for t in range(m):
            total -= logs[i * m + t, y * m + t]
    return total / (len(labels) * m) if reduction == "mean" else total / len(labels)


def aggregate(joint_logits, m):
    """[B, C]: s_ic = 1/m Σ_t joint logit of (c, t) in the row of view t of image i."""
    rows, columns = joint_logits.shape
    out = np.zeros((rows // m, columns // m))
    for i in range(rows // m):
        for c in range(columns // m):
            out[i, c] = sum(joint_logits[i * m + t, c * m + t] for t in range(m)) / m
    return out


def distill(student, teacher, temperature):
    """T² · 1/B Σ_i KL(softmax(teacher/T) ‖ softmax(student/T))."""
    rows = kl_rows(log_softmax(teacher / temperature), log_softmax(student / temperature))
    return temperature**2 * sum(rows) / len(rows)


# --- Learning without labels -------------------------------------------------------------------------


def unit_rows(z):
    """Each row over its length."""
    return np.array([row / math.sqrt(sum(row * row)) for row in np.asarray(z, dtype=np.float64)])


def dot(a, b):
    """Σ_d a_d b_d."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def negative_cosine(p, z):
    """−1/B Σ_i ⟨p_i, z_i⟩ / (‖p_i‖ ‖z_i‖) (SimSiam, eq. 1)."""
    return cosine(p, z) - 1


def nt_xent(z1, z2, temperature):
    """1/2N Σ_i −log [exp(s_ij/T) / Σ_{k≠i} exp(s_ik/T)], j the other view of i's image (SimCLR, eq. 1)."""
    z, n = unit_rows(np.concatenate([z1, z2])), len(z1)
    total = 0.0
    for i in range(2 * n):
        others = sum(math.exp(dot(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(dot(z[i], z[(i + n) % (2 * n)]) / temperature) / others)
    return total / (2 * n)


def info_nce(q, k, queue, temperature):
    """1/B Σ_i −log [exp(q·k₊/T) / (exp(q·k₊/T) + Σ_j exp(q·k_j/T))], k_j the queue (MoCo, eq. 1)."""
    q, k, queue = unit_rows(q), unit_rows(k), unit_rows(queue)
    total = 0.0
    for query, key in zip(q, k, strict=True):
        own = math.exp(dot(query, key) / temperature)
        total -= math.log(own / (own + sum(math.exp(dot(query, old) / temperature) for old in queue)))
    return total / len(q)


def supervised_contrastive(z, labels, temperature):
    """1/N Σ_i −1/|P(i)| Σ_{p∈P(i)} log [exp(z_i·z_p/T) / Σ_{a≠i} exp(z_i·z_a/T)] (Khosla et al., eq. 2).

    P(i): the other rows of i's class; a row without any adds nothing to the sum.
    """
    z, total = unit_rows(z), 0.0
    for i in range(len(z)):
        others = sum(math.exp(dot(z[i], z[a]) / temperature) for a in range(len(z)) if a != i)
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        for p in positives:
            total -= math.log(math.exp(dot(z[i], z[p]) / temperature) / others) / len(positives)
    return total / len(z)


def sinkhorn(scores, epsilon, iterations):
    """[B, K]: exp(scores/ε) over its sum; prototypes to 1/K each, then rows to 1/B each, in turn; times B (SwAV)."""
    rows, prototypes = scores.shape
    top = max(scores.ravel())  # a common factor, taken out by the first division
    q = np.array([[math.exp((s - top) / epsilon) for s in row] for row in scores])
    q = q / sum(q.ravel())
    for _ in range(iterations):
        for c in range(prototypes):
            q[:, c] = q[:, c] / sum(q[:, c]) / prototypes
        for i in range(rows):
            q[i] = q[i] / sum(q[i]) / rows
    return q * rows


def swav(scores1, scores2, temperature, epsilon, iterations, codes=None):
    """ℓ(s_1, q_2) + ℓ(s_2, q_1); ℓ(s, q) = −1/B Σ_i Σ_c q_ic log softmax(s_i/T)_c (SwAV, eq. 1 and 2).

    `codes` fixes both codes, for finite differences of a loss that takes no gradient through them.
    """
    q1, q2 = codes or (sinkhorn(scores1, epsilon, iterations), sinkhorn(scores2, epsilon, iterations))
    total = 0.0
    for scores, q in ((scores1, q2), (scores2, q1)):
        total -= sum((q * log_softmax(scores / temperature)).ravel()) / len(scores)
    return total


def barlow_twins(z1, z2, lambd):
    """Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²; C_ij: the correlation of z1's column i with z2's column j (eq. 1 and 2)."""
    columns1, columns2 = (unit_rows((z - sum(z) / len(z)).T) for z in (z1, z2))
    total = 0.0
    for i, a in enumerate(columns1):
        for j, b in enumerate(columns2):
            total += (1 - dot(a, b)) ** 2 if i == j else lambd * dot(a, b) ** 2
    return total


def pseudo_label(strong, weak, threshold, temperature=1.0):
    """1/B Σ_i 1[max P_i ≥ τ] · (−log softmax(strong_i) at argmax P_i), P = softmax(weak/T) (FixMatch, eq. 4)."""
    total = 0.0
    for log_p, row in zip(log_softmax(strong), log_softmax(weak / temperature), strict=True):
        if math.exp(max(row)) >= threshold:
            total -= log_p[int(np.argmax(row))]
    return total / len(strong)


def softmax_rows(logits):
    """Each row's probabilities."""
    return [[math.exp(value) for value in row] for row in log_softmax(logits)]


def fairness(strong, weights, local, labels):
    """Σ_c a_c log b_c, a = norm(p̃/h̃), b = norm(p̄/h̄), p̄ and h̄ over the rows that count (FreeMatch, eq. 11-13)."""
    rows = [p for p, weight in zip(softmax_rows(strong), weights, strict=True) if weight]
    if not rows:
        return 0.0
    classes = range(len(local))
    mean = [sum(p[c] for p in rows) / len(rows) for c in classes]
    often = [sum(float(np.argmax(p) == c) for p in rows) / len(rows) for c in classes]
    a = [local[c] / labels[c] if labels[c] else 0.0 for c in classes]
    b = [mean[c] / often[c] if often[c] else 0.0 for c in classes]
    return sum(x / sum(a) * math.log(y / sum(b) + 1e-12) for x, y in zip(a, b, strict=True))


# --- Evaluation ------------------------------------------------------------------------------------


def knn_votes(features, bank, bank_labels, classes, k, temperature):
    """[B, classes]: Σ over the k most similar rows of the bank of exp(cos/T), for each class."""
    out = np.zeros((len(features), classes))
    for i, f in enumerate(features):
        cosines = [sum(f * b) / math.sqrt(sum(f * f) * sum(b * b)) for b in bank]
        for j in sorted(range(len(bank)), key=lambda j: -cosines[j])[:k]:
            out[i, bank_labels[j]] += math.exp(cosines[j] / temperature)
    return out


def expected_calibration_error(probabilities, labels, bins):
    """Σ_b n_b/N |accuracy_b − confidence_b|, bin b: max P in (b/bins, (b+1)/bins]."""
    total = 0.0
    for b in range(bins):
        inside = [
            (float(np.argmax(p) == y), max(p))
            for p, y in zip(probabilities, labels, strict=True)
            if b / bins < max(p) <= (b + 1) / bins
        ]
        gap = abs(sum(hit for hit, _ in inside) - sum(confidence for _, confidence in inside))
        total += gap / len(labels)
    return total


def flex_thresholds(learned, threshold=0.95):
    """[C]: τ β_c / (2 − β_c) (FlexMatch, eq. 12 with the convex map)."""
    return np.array([threshold * b / (2 - b) for b in learned])


def free_thresholds(overall, local):
    """[C]: τ p̃_c / max_k p̃_k (FreeMatch, eq. 6)."""
    return np.array([overall * p / max(local) for p in local])


def soft_weights(confidence, mean, variance, sigmas=2.0):
    """[B]: exp(−(c − µ)² / (2 (σ/n)²)) where c < µ, else 1 (SoftMatch, eq. 8)."""
    return np.array(
        [math.exp(-((c - mean) ** 2) / (2 * variance / sigmas**2)) if c < mean else 1.0 for c in confidence]
    )


# --- DINO, LeJEPA ----------------------------------------------------------------------------------


def dino(student, teacher, centre, student_temperature=0.1, teacher_temperature=0.04):
    """−1/B Σ_i Σ_k P_ik log Q_ik; P = softmax((t − c)/T_t), Q = softmax(s/T_s) (eq. 1, algorithm 1)."""
    log_p = log_softmax((teacher - centre) / teacher_temperature)
    log_q = log_softmax(student / student_temperature)
    total = 0.0
    for p, q in zip(log_p, log_q, strict=True):
        total -= sum(math.exp(a) * b for a, b in zip(p, q, strict=True))
    return total / len(student)


def sigreg(z, directions, knots=17, reach=3.0):
    """Mean over directions of N ∫_{−R}^{R} |1/N Σ_i e^{itu_i} − e^{−t²/2}|² e^{−t²/2} dt, u = ⟨a, z_i⟩ (SIGReg).

    By the trapezoidal rule, on both halves of the line.
    """
    total = 0.0
    for a in np.asarray(directions).T:
        u = [sum(x * y for x, y in zip(row, a, strict=True)) for row in z]
        values = []
        for t in np.linspace(-reach, reach, 2 * knots - 1):
            phi = sum(complex(math.cos(t * x), math.sin(t * x)) for x in u) / len(u)
            values.append(abs(phi - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2))
        step = reach / (knots - 1)
        total += len(u) * sum((left + right) / 2 * step for left, right in itertools.pairwise(values))
    return total / np.asarray(directions).shape[1]


def spread(z):
    """1/(V·B·D) Σ (z_v − 1/V Σ_u z_u)²."""
    views, rows, width = z.shape
    total = 0.0
    for i in range(rows):
        for d in range(width):
            mean = sum(z[v, i, d] for v in range(views)) / views
            total += sum((z[v, i, d] - mean) ** 2 for v in range(views))
    return total / (views * rows * width)


# --- Soft Augmentation -----------------------------------------------------------------------------


def visible_pixels(ways):
    """[B]: the share of an image's pixels that is still seen, counted on the pixels themselves.

    ways: for each image (height, width, steps). A step is ("cut", top, left, height, width), which gives a frame of
    that size in which what lies beyond is none of the image, ("hide", top, left, height, width), or ("flip",).
    """
    shares = []
    for height, width, steps in ways:
        frame = [[(y, x) for x in range(width)] for y in range(height)]
        for what, *box in steps:
            if what == "flip":
                frame = [list(reversed(row)) for row in frame]
                continue
            top, left, tall, wide = box
            rows, columns = len(frame), len(frame[0])
            if what == "cut":
                frame = [
                    [frame[y][x] if 0 <= y < rows and 0 <= x < columns else None for x in range(left, left + wide)]
                    for y in range(top, top + tall)
                ]
            else:
                for y in range(max(0, top), min(rows, top + tall)):
                    for x in range(max(0, left), min(columns, left + wide)):
                        frame[y][x] = None
        shares.append(len({pixel for row in frame for pixel in row if pixel is not None}) / (height * width))
    return shares


def soften(labels, shares, classes, k, floor=None):
    """p = 1 − (1 − p_min)(1 − v)^k to the label, (1 − p)/(C − 1) to each other class."""
    least = 1 / classes if floor is None else floor
    out = np.zeros((len(labels), classes))
    for i, (label, share) in enumerate(zip(labels, shares, strict=True)):
        sure = 1 - (1 - least) * (1 - share) ** k
        for c in range(classes):
            out[i, c] = sure if c == label else (1 - sure) / (classes - 1)
    return out
