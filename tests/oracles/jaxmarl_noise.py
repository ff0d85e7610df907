"""The random numbers that JaxMARL 0.2.0 draws in a step of its skirmish, so that both libraries can play the same battle."""

import jax
import jax.numpy as jnp


def cooldown_draws(key, num_ticks, num_units):
    """In ticks, `[ticks, U]`: what its `step_env_no_decode` adds to cooldowns when called with this key."""

    def tick(key, _):
        key, tick_key = jax.random.split(key)
        unit_keys = jax.random.split(tick_key, num_units)
        return key, jax.vmap(lambda k: jax.random.uniform(k, minval=-1 / 16, maxval=2 / 16))(unit_keys)

    return jax.lax.scan(tick, key, length=num_ticks)[1] * 16


def enemy_draws(key, num_enemies):
    """Uniform numbers `[2, E]` of its scripted enemies when `get_enemy_actions` is called with this key."""
    follow, attack = jax.vmap(jax.random.split, out_axes=1)(jax.random.split(key, num_enemies))
    return jnp.stack([jax.vmap(jax.random.uniform)(attack), jax.vmap(jax.random.uniform)(follow)])
