"""Train a DeepMind Control expert, SAC on states, and write its episodes as V-D4RL's npz. Run it again to resume."""

# python examples/dm_control_expert.py walker-walk 100000 100    (task, decisions of two native steps, episodes)
# It needs rt1[dm_control,gym], and stable-baselines3 installed with --no-deps, which would bring another torch.
import sys
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors.numpy import save_file
from stable_baselines3 import SAC

from rt1.common.files import replacing
from rt1.common.progress import progress
from rt1.envs.dm_control import DMControlConfig, DMControlEnv, NetworkExpert
from rt1.simulate.rollout import Expert
from rt1.simulate.v_d4rl import write_v_d4rl_episode

MEMORY, PART = ("observations", "next_observations", "actions", "rewards", "dones"), 1000
NOISE = 0.3  # moves the robot off its path, so that the episodes show the way back


class States(gymnasium.Env):
    """A task as SAC sees it: positions and velocities, actions in -1..1 as all of dm_control's are."""

    def __init__(self, env: DMControlEnv) -> None:
        env.reset(0)
        self.env, self.observation_space = env, gymnasium.spaces.Box(-np.inf, np.inf, env.state().shape)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (env.action_spec.size,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed, options=options)
        self.env.reset(int(self.np_random.integers(2**31)))
        return self.env.state(), {}

    def step(self, action: np.ndarray) -> tuple:
        result = self.env.step(np.clip(action, -1, 1))
        return self.env.state(), result.reward, result.done and not result.truncated, result.truncated, {}


def train(task: str, steps: int, out: Path) -> NetworkExpert:
    state, weights = out / f"{task}.pt", out / f"{task}.safetensors"
    options = {"buffer_size": steps + PART, "policy_kwargs": {"optimizer_kwargs": {"fused": True}}}
    model = SAC("MlpPolicy", States(DMControlEnv(task, render=False)), 1e-3, batch_size=128, seed=0, **options)
    memory = model.replay_buffer
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        model.set_parameters(saved["parameters"])
        model.log_ent_coef.data, model.num_timesteps = saved["entropy"], saved["steps"]
        memory.pos = min(len(saved["rewards"]), steps)
        for name in MEMORY:
            getattr(memory, name)[: memory.pos] = saved[name][: memory.pos]
    with progress(f"training {task}", steps, unit="steps", done=model.num_timesteps) as bar:
        while model.num_timesteps < steps or not weights.is_file():
            model.learn(PART, reset_num_timesteps=False)
            layers = [layer for layer in (*model.actor.latent_pi, model.actor.mu) if hasattr(layer, "weight")]
            tensors = {f"{n}.{k}": v.detach().numpy() for n, m in enumerate(layers) for k, v in m.named_parameters()}
            saved = {name: torch.from_numpy(getattr(memory, name)[: memory.pos]) for name in MEMORY}
            saved |= {"parameters": model.get_parameters(), "steps": model.num_timesteps}
            with replacing(state) as state_file, replacing(weights) as weights_file:
                torch.save(saved | {"entropy": model.log_ent_coef.data}, state_file)
                save_file(tensors, weights_file)
            bar.update(model.num_timesteps, f"return {np.mean([e['r'] for e in list(model.ep_info_buffer)[-4:]]):.0f}")
    return NetworkExpert(weights)


if __name__ == "__main__":
    task, folder = sys.argv[1], Path("outputs/experts")
    (data := folder / task).mkdir(parents=True, exist_ok=True)
    env = DMControlEnv(task, DMControlConfig(image_size=64))
    expert = Expert(partial(train(task, int(sys.argv[2]), folder), env))
    with progress(f"episodes into {data}", int(sys.argv[3]), unit="episodes") as bar:
        for number in range(int(sys.argv[3])):
            if not (path := data / f"{number:04d}.npz").is_file():
                print(f"{path}: return {write_v_d4rl_episode(path, env, expert, seed=2 * number, noise=NOISE):.1f}")
            bar.update(number + 1)
