"""A particle world in plain Python and NumPy: one disc at a time, pairs by loops, float64."""

import numpy as np

PUSHES = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]


def contact(a, b, radius_a, radius_b, strength=100.0, margin=0.001):
    """Force on a from b."""
    distance = np.hypot(*(a - b))
    if distance == 0:
        return np.zeros(2)
    overlap = (radius_a + radius_b - distance) / margin
    depth = margin * (overlap + np.log1p(np.exp(-overlap)) if overlap > 0 else np.log1p(np.exp(overlap)))
    return strength * depth * (a - b) / distance


def step(positions, velocities, bodies, moves, accelerations, max_speeds, radii, body_radii, dt=0.1, damping=0.25):
    """One step; `bodies` are obstacles, agents all collide."""
    positions, velocities = np.array(positions, float), np.array(velocities, float)
    forces = np.array([np.array(PUSHES[m]) * a for m, a in zip(moves, accelerations, strict=True)], float)
    for i in range(len(positions)):
        for j in range(i + 1, len(positions)):
            push = contact(positions[i], positions[j], radii[i], radii[j])
            forces[i] += push
            forces[j] -= push
        for body, radius in zip(np.asarray(bodies, float), body_radii, strict=True):
            forces[i] += contact(positions[i], body, radii[i], radius)
    new_positions = positions + velocities * dt
    new_velocities = velocities * (1 - damping) + forces * dt
    for i, limit in enumerate(max_speeds):
        speed = np.hypot(*new_velocities[i])
        if speed > limit:
            new_velocities[i] *= limit / speed
    return new_positions, new_velocities


def spread_rewards(positions, landmarks, local_ratio, radius=0.15):
    """Rewards of simple spread."""
    covered = -sum(min(np.hypot(*(p - l)) for p in positions) for l in landmarks)
    rewards = []
    for i, p in enumerate(positions):
        contacts = sum(np.hypot(*(p - q)) < 2 * radius for j, q in enumerate(positions) if j != i)
        rewards.append(local_ratio * -contacts + (1 - local_ratio) * covered)
    return np.array(rewards)


def tag_rewards(positions, num_adversaries, hunter_radius=0.075, prey_radius=0.05):
    """Rewards of tag."""

    def bound(c):
        return 0 if c < 0.9 else 10 * (c - 0.9) if c < 1 else min(np.exp(2 * c - 2), 10)

    hunters, prey = positions[:num_adversaries], positions[num_adversaries:]
    caught = [sum(np.hypot(*(p - h)) < hunter_radius + prey_radius for h in hunters) for p in prey]
    of_prey = [-10 * c - bound(abs(p[0])) - bound(abs(p[1])) for c, p in zip(caught, prey, strict=True)]
    return np.array([10.0 * sum(caught)] * num_adversaries + of_prey)
