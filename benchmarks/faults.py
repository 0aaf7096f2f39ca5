"""Plant known faults one by one; each must make a test fail.

Every fault is a small change to one file: a sign, a factor of two, sigma_t for sigma_s, a wrong head row, alpha and sigma
swapped, an index off by one. The source is copied, the fault planted in the copy, and the tests that should notice are run
against it. A fault that no test notices is a hole in the tests, and the exit status says so.

    make faults                                   # all
    python benchmarks/faults.py --only heads      # those whose name contains "heads"
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINGS = "tests/conformance"
G = "gaussian/"
SOLVERS = "tests/gaussian/test_solvers.py"


@dataclass(frozen=True)
class Fault:
    """One planted fault: `old` becomes `new` in `file`, and `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = [
    # schedules
    Fault("VP: sign of the exponent", "schedules.py", "torch.exp(-0.5 * self._integral", "torch.exp(0.5 * self._integral", "tests/test_schedules.py"),
    Fault("VP: factor two in the drift", "schedules.py", "        return -0.5 * self.g2(t)", "        return -1.0 * self.g2(t)", "tests/test_schedules.py"),
    Fault("any schedule: half of g2", "schedules.py", "return 2 * sigma * (self.dsigma(t)", "return sigma * (self.dsigma(t)", "tests/test_schedules.py"),
    Fault("sub-VP: alpha^2 for alpha^4 in g2", "schedules.py", "torch.expm1(-2 * self._integral", "torch.expm1(-1 * self._integral", "tests/test_schedules.py"),
    Fault("VE: sigma(0) is not 0", "schedules.py", "torch.expm1(self._rate * scalars(t)).sqrt()", "torch.exp(self._rate * scalars(t)).sqrt()", "tests/test_schedules.py"),
    Fault("VP: factor two in the inverse", "schedules.py", "2 * slope * area", "slope * area", "tests/test_schedules.py"),
    Fault("cosine: offset forgotten in sigma", "schedules.py", "torch.sin(angle + self._start)", "torch.sin(angle)", "tests/test_schedules.py"),
    Fault("log-SNR without its square", "schedules.py", "return 2 * (self.alpha(t).log()", "return 1 * (self.alpha(t).log()", "tests/test_schedules.py"),
    Fault("survival: sign of the rate", "schedules.py", "return -derivative(self.keep, t)", "return derivative(self.keep, t)", "tests/test_schedules.py"),
    # grids
    Fault("grid: one rung short", "grids.py", "rungs = steps + 1 - free_start", "rungs = steps - free_start", "tests/test_grids.py"),
    Fault("grid: one time too many", "grids.py", "(start - end) * warp(np.linspace(1, 0, steps + 1)", "(start - end) * warp(np.linspace(1, 0, steps + 2)", "tests/test_grids.py"),
    Fault("grid: the end is not met", "grids.py", "return of_times([start, *inner, end])", "return of_times([start, *inner, end + 1e-12])", "tests/test_grids.py"),
    Fault("grid: rho and 1/rho", "grids.py", "lambda r: r ** (1 / rho), lambda u: u**rho", "lambda r: r**rho, lambda u: u ** (1 / rho)", "tests/test_grids.py::test_karras_is_the_papers_ladder"),
    Fault("grid: the ladder stands on its head", "grids.py", "on.noise((last + (first - last) * u)", "on.noise((first + (last - first) * u)", "tests/test_grids.py::test_karras_is_the_papers_ladder"),
    Fault("grid: whole times of a thousand", "grids.py", "Grid(tuple(float(t) for t in times))", "Grid(tuple(round(1000 * float(t)) / 1000 for t in times))", "tests/test_grids.py"),
    Fault("bend: data and noise swapped", "grids.py", "1 - (1 - u**data) ** noise", "1 - (1 - u**noise) ** data", "tests/test_grids.py"),
    Fault("bend: crowds the other end", "grids.py", "lambda u: 1 - (1 - u**data) ** noise", "lambda u: (1 - (1 - u) ** data) ** noise", "tests/test_grids.py"),
    # laws and covariances
    Fault("Normal: alpha^2 for alpha in the gain", "laws/normal.py", "self.mean).flatten(1)\n        step = self.cov.apply(lambda s: ratio(a * s,", "self.mean).flatten(1)\n        step = self.cov.apply(lambda s: ratio(a * a * s,", "tests/test_laws.py"),
    Fault("Mixture: evidence without the noise", "laws/mixture.py", "gaussian_log_prob(residual, self.cov, lambda s: a.square() * s + v)", "gaussian_log_prob(residual, self.cov, lambda s: a.square() * s + 0.5 * v)", "tests/test_laws.py"),
    Fault("Empirical: attention at half the temperature", "laws/empirical.py", "torch.where(short > 0, short / v, 0.0)", "torch.where(short > 0, 2 * short / v, 0.0)", "tests/test_laws.py"),
    Fault("density: half of the log determinant", "laws/parts.py", "-0.5 * (quadratic + cov.logdet(spectrum)", "-0.5 * (quadratic + 0.5 * cov.logdet(spectrum)", "tests/test_laws.py"),
    Fault("guidance: the two laws swapped", "laws/point.py", "torch.lerp(other.mean, self.mean, scale)", "torch.lerp(self.mean, other.mean, scale)", "tests/guidance tests/test_laws.py"),
    Fault("covariance: tail lost", "core/covariance.py", "inside + outside * function(self.tail)[..., 0].log()", "inside", "tests/core"),
    Fault("random: samples share a stream", "core/random.py", "i & _MASK], dtype", "0], dtype", "tests/core"),
    # Gaussian path
    Fault("reverse: alpha and sigma swapped", G + "path.py", "return schedule.alpha(s) - from_state", "return schedule.sigma(s) - from_state", WINGS),
    Fault("reverse: sigma_t for sigma_s", G + "path.py", "stochasticity**2 * schedule.sigma(s).square()", "stochasticity**2 * schedule.sigma(t).square()", WINGS),
    Fault("reverse: weight of x_t not squared", G + "path.py", "ratio.square() * schedule.alpha(t)", "ratio * schedule.alpha(t)", WINGS),
    Fault("corrupt: sigma_s for sigma_t", G + "path.py", "variance = self.schedule.sigma(t).square() * self._fresh", "variance = self.schedule.sigma(s).square() * self._fresh", WINGS),
    Fault("tilt: sign", G + "path.py", "Point(law.mean + pad(", "Point(law.mean - pad(", "tests/gaussian/test_path.py"),
    Fault("tilt: alpha squared", G + "path.py", "sigma(t).square() / alpha, signal", "sigma(t).square() / alpha.square(), signal", "tests/gaussian/test_path.py"),
    Fault("prior gap: factor two", G + "path.py", "return 0.5 * second_moment", "return 0.25 * second_moment", "tests/gaussian/test_path.py"),
    # heads and denoisers
    Fault("heads: sign of eps", G + "heads.py", "return 1 / q.alpha, -q.sigma / q.alpha", "return 1 / q.alpha, q.sigma / q.alpha", "tests/gaussian/test_heads.py"),
    Fault("heads: sigma for sigma^2 in score", G + "heads.py", "1 / q.alpha, q.sigma.square() / q.alpha", "1 / q.alpha, q.sigma / q.alpha", "tests/gaussian/test_heads.py"),
    Fault("heads: alpha and sigma swapped in v", G + "heads.py", "return q.alpha / power, -q.sigma / power", "return q.sigma / power, -q.alpha / power", "tests/gaussian/test_heads.py"),
    Fault("heads: row x0 in place of v", G + "heads.py", '"v": _v,', '"v": _x0,', "tests/gaussian/test_heads.py"),
    Fault("heads: sign of velocity", G + "heads.py", "return -slope / rest,", "return slope / rest,", "tests/gaussian/test_heads.py"),
    Fault("heads: data_std not squared in edm", G + "heads.py", "return q.data_std**2 * q.alpha / power", "return q.data_std * q.alpha / power", "tests/gaussian/test_heads.py"),
    Fault("denoiser: input scale without data_std", G + "denoiser.py", "schedule.alpha(t).square() * self.data_std**2 + schedule", "schedule.alpha(t).square() + schedule", "tests/gaussian/test_denoiser.py"),
    Fault("denoiser: clock change scales the wrong way", G + "denoiser.py", "self.inner(pad(power.sqrt(), x_t)", "self.inner(pad(power.rsqrt(), x_t)", "tests/gaussian/test_denoiser.py"),
    Fault("denoiser: noise label doubled", G + "denoiser.py", "return 0.125 *", "return 0.25 *", "tests/gaussian/test_denoiser.py"),
    Fault("score: sigma for sigma^2", G + "denoiser.py", "variance = schedule.sigma(t).square()", "variance = schedule.sigma(t)", "tests/gaussian/test_exact.py"),
    Fault("conditional Gaussian: sign of the gain", G + "exact.py", "mean = self.mean[:d] + (cond", "mean = self.mean[:d] - (cond", "tests/gaussian/test_conditional.py"),
    # solvers
    Fault("DDIM: noise without its root", G + "solvers/ddim.py", "variance.sqrt()", "variance", SOLVERS),
    Fault("DDPM: forward variance inverted", G + "solvers/ddpm.py", "(sigma_t / sigma_s).square()", "(sigma_s / sigma_t).square()", SOLVERS),
    Fault("Euler-Maruyama: factor two in the drift", G + "solvers/euler_maruyama.py", "pull = 0.5 * (1 +", "pull = 1.0 * (1 +", SOLVERS),
    Fault("Euler-Maruyama: sign of the linear drift", G + "solvers/euler_maruyama.py", "1 - step * schedule.f(t)", "1 + step * schedule.f(t)", SOLVERS),
    Fault("exponential: noise at t, not s", G + "solvers/exponential.py", "alpha_s * (self.stochasticity**2 * noise).sqrt()", "alpha_t * (self.stochasticity**2 * noise).sqrt()", SOLVERS),
    Fault("Heun: whole step where half belongs", G + "solvers/heun.py", "half = 0.5 * (noise_s - noise_t)", "half = 1.0 * (noise_s - noise_t)", SOLVERS),
    Fault("Heun: sigma_t for sigma_s in the corrector", G + "solvers/heun.py", "            half / noise_s,\n", "            half / noise_t,\n", SOLVERS),
    Fault("DPM-Solver++: halved difference", G + "solvers/dpmpp.py", "0.5 * h[1:] / h[:-1]", "0.25 * h[1:] / h[:-1]", SOLVERS),
    Fault("DPM-Solver++: r inverted", G + "solvers/dpmpp.py", "0.5 * h[1:] / h[:-1]", "0.5 * h[:-1] / h[1:]", SOLVERS),
    Fault("DPM-Solver++: t and s exchanged", G + "solvers/dpmpp.py", "gain, a, _ = path.step_back(t, s, 0.0)", "gain, a, _ = path.step_back(s, t, 0.0)", SOLVERS),
    Fault("plan: whole times of a thousand", G + "solvers/plan.py", "return torch.tensor(grid.times, dtype=torch.float64).unbind()", "return torch.tensor(grid.times, dtype=torch.float64).mul(1000).round().div(1000).unbind()", "tests/gaussian/test_multistep.py::test_steps_are_those_written_out"),
    Fault("multistep: halved difference", G + "solvers/multistep.py", "(u - at[:, other, None]) / apart", "(u - at[:, other, None]) / (2 * apart)", "tests/gaussian/test_multistep.py::test_steps_are_those_written_out"),
    Fault("multistep: norm_t for norm_s", G + "solvers/multistep.py", "measure = self.norm[1:, None]", "measure = self.norm[:-1, None]", "tests/gaussian/test_multistep.py::test_steps_are_those_written_out"),
    Fault("multistep: the corrector does not look ahead", G + "solvers/multistep.py", "np.arange(n)[:, None] + ahead - np.arange(points)", "np.arange(n)[:, None] - np.arange(points)", "tests/gaussian/test_multistep.py::test_steps_are_those_written_out"),
    Fault("multistep: sign of the mended step", G + "solvers/multistep.py", "change[:, 1:] -= onward[:-1, 1:]", "change[:, 1:] += onward[:-1, 1:]", "tests/gaussian/test_multistep.py::test_steps_are_those_written_out"),
    Fault("UniPC: alpha_t for alpha_s", G + "solvers/unipc.py", "of_others = alpha[i + 1] * a / r", "of_others = alpha[i] * a / r", "tests/gaussian/test_unipc.py"),
    Fault("UniPC: bh2 without its half", G + "solvers/unipc.py", "-0.5 * np.expm1(-h)", "-np.expm1(-h)", "tests/gaussian/test_unipc.py"),
    Fault("UniPC: weights of t and s swapped", G + "solvers/unipc.py", "[gain[i], of_s, of_t, *earlier]", "[gain[i], of_t, of_s, *earlier]", "tests/gaussian/test_unipc.py"),
    Fault("phi: factorial off by one", G + "solvers/phi.py", "1 / math.factorial(m + k)", "1 / math.factorial(m + k - 1)", "tests/gaussian/test_unipc.py::test_phi_is_its_integral"),
    Fault("SA-Solver: the corrector lacks its oldest answer", G + "solvers/sa.py", "oldest = i + 1 - self.corrector", "oldest = i + 2 - self.corrector", "tests/gaussian/test_stochastic.py::test_sa_matches_algorithm_1"),
    Fault("SA-Solver: alpha_t for alpha_s", G + "solvers/sa.py", "behind[i + 1] = alpha[i + 1] *", "behind[i + 1] = alpha[i] *", "tests/gaussian/test_stochastic.py::test_sa_matches_algorithm_1"),
    Fault("SDE-DPM-Solver++: halved difference", G + "solvers/sde_dpmpp.py", "0.5 * lengths[1:] / lengths[:-1]", "0.25 * lengths[1:] / lengths[:-1]", "tests/gaussian/test_stochastic.py::test_sde_dpmpp_matches_the_papers_update"),
    Fault("reverse SDE: half of the noise's exponent", G + "solvers/reverse_sde.py", "torch.expm1(-2 * level2 * lengths)", "torch.expm1(-level2 * lengths)", "tests/gaussian/test_stochastic.py::test_stochastic_heun_is_the_exponential_trapezoid"),
    Fault("reverse SDE: drift doubled", G + "solvers/reverse_sde.py", "-(1 + level2) * lengths)", "-2 * (1 + level2) * lengths)", "tests/gaussian/test_stochastic.py::test_sde_dpmpp_matches_the_papers_update tests/gaussian/test_stochastic.py::test_point_mass_is_exact_at_any_number_of_calls"),
    Fault("reverse SDE: clock without its factor two", G + "solvers/reverse_sde.py", "torch.exp(2 * level2 * half_log_snr", "torch.exp(level2 * half_log_snr", "tests/gaussian/test_stochastic.py::test_on_a_point_mass_one_path_has_one_end"),
    Fault("stochastic Heun: sign of the slope's correction", G + "solvers/stochastic_heun.py", "1 + torch.expm1(-kappa) / kappa", "1 - torch.expm1(-kappa) / kappa", "tests/gaussian/test_stochastic.py::test_stochastic_heun_is_the_exponential_trapezoid"),
    Fault("stochastic Heun: noise lost from the corrector's length", G + "solvers/stochastic_heun.py", "kappa = (1 + level2) * lengths", "kappa = lengths", "tests/gaussian/test_stochastic.py::test_stochastic_heun_is_the_exponential_trapezoid"),
    Fault("churn: noise in the scale of t", G + "solvers/churn.py", "self.inflation * scale * variance", "self.inflation * alpha * variance", "tests/gaussian/test_stochastic.py::test_the_noise_levels_alone_matter"),
    Fault("churn: r for r^2", G + "solvers/churn.py", "- level.square()  #", "- level  #", "tests/gaussian/test_stochastic.py::test_churn_matches_edm_algorithm_2"),
    Fault("Langevin: drift doubled", G + "solvers/langevin.py", "pull = 0.5 * size *", "pull = size *", "tests/gaussian/test_langevin.py::test_annealing_is_algorithm_1_on_every_clock"),
    Fault("Langevin: noise without its root", G + "solvers/langevin.py", "size**0.5 * schedule.sigma(t)", "size * schedule.sigma(t)", "tests/gaussian/test_langevin.py::test_annealing_is_algorithm_1_on_every_clock"),
    Fault("Langevin: carried by alpha_t / alpha_s", G + "solvers/langevin.py", "path.schedule.alpha(s) / alpha_t, sigma(s)", "alpha_t / path.schedule.alpha(s), sigma(s)", "tests/gaussian/test_langevin.py::test_annealing_is_algorithm_1_on_every_clock"),
    Fault("predictor-corrector: half of the size", G + "solvers/predictor_corrector.py", "return 4 * self.snr**2", "return 2 * self.snr**2", "tests/gaussian/test_predictor_corrector.py::test_corrector_is_the_papers_at_the_norms_of_noise"),
    Fault("predictor-corrector: walks at t, not s", G + "solvers/predictor_corrector.py", "corrector.times[i + 1]", "corrector.times[i]", "tests/gaussian/test_predictor_corrector.py::test_corrector_is_the_papers_at_the_norms_of_noise"),
    Fault("restart: sigma_min for sigma_max", G + "solvers/restart.py", "schedule.sigma(high) * fresh.sqrt()", "schedule.sigma(low) * fresh.sqrt()", "tests/gaussian/test_restart.py::test_restart_is_the_papers_loop"),
    Fault("restart: one step short", G + "solvers/restart.py", "for j in range(start, i + 1)", "for j in range(start + 1, i + 1)", "tests/gaussian/test_restart.py::test_restart_is_the_papers_loop"),
    Fault("Runge-Kutta: gain inverted", G + "solvers/runge_kutta.py", "gains = [n / norms[0] for n", "gains = [norms[0] / n for n", "tests/gaussian/test_runge_kutta.py::test_full_order_onto_the_data"),
    Fault("Runge-Kutta: weights the wrong way round", G + "solvers/runge_kutta.py", "(1 / 4, 0, 3 / 4), 3)", "(3 / 4, 0, 1 / 4), 3)", "tests/gaussian/test_runge_kutta.py::test_tableaux_meet_their_order_conditions"),
    Fault("stages: sign of the clean end in the flow", G + "solvers/stages.py", "lambda a, s: (1 / s, -(a + s) / s)", "lambda a, s: (1 / s, (a + s) / s)", "tests/gaussian/test_runge_kutta.py::test_every_clock_turns_the_flow_into_its_quantity"),
    Fault("stages: alpha and sigma swapped in the angle", G + "solvers/stages.py", "torch.atan2(s, a)", "torch.atan2(a, s)", "tests/gaussian/test_runge_kutta.py::test_every_clock_turns_the_flow_into_its_quantity"),
    Fault("stages: the state's own share lost", G + "solvers/stages.py", "stage[i] + weight * p * value", "stage[i] + weight * value", "tests/gaussian/test_runge_kutta.py::test_midpoint_in_the_noise_clock_is_edms"),
    Fault("DPM-Solver: halved difference", G + "solvers/dpm_singlestep.py", "slope = lead * phi(2, z)", "slope = 0.5 * lead * phi(2, z)", "tests/gaussian/test_dpm_singlestep.py"),
    Fault("DPM-Solver: sign of the exponent", G + "solvers/dpm_singlestep.py", "z = -sign * r * h", "z = sign * r * h", "tests/gaussian/test_dpm_singlestep.py"),
    Fault("adaptive: the second weight of the error", G + "solvers/adaptive.py", "(_B[1] - 1) * slopes[1]", "_B[1] * slopes[1]", "tests/gaussian/test_adaptive.py::test_error_follows_the_tolerance"),
    Fault("adaptive: error over the batch", G + "solvers/adaptive.py", ".square().mean(1).sqrt().to(", ".square().mean().expand(len(gap)).sqrt().to(", "tests/gaussian/test_adaptive.py::test_a_sample_never_depends_on_its_neighbours"),
    Fault("Picard: asked at s, not t", G + "solvers/picard.py", "plan.times[step]).mean", "plan.times[step + 1]).mean", "tests/gaussian/test_picard.py::test_without_tolerance_every_state_is_the_solvers"),
    Fault("Picard: every window slides by the longest way", G + "solvers/picard.py", "state.known + moved_on, state.sweeps", "state.known + moved_on.max(), state.sweeps", "tests/gaussian/test_picard.py::test_a_sample_never_depends_on_its_neighbours"),
    Fault("fitted: weight of the start for that of the state", G + "solvers/fitted.py", "combine(state[0], row[0],", "combine(x, row[0],", "tests/gaussian/test_tune.py::test_fitted_with_the_weights_of_the_multistep_is_the_multistep"),
    # grids, likelihoods and encodings of the Gaussian wing
    Fault("graded: share and rest swapped", "grids.py", "share / np.log1p(1 / finest), 1 - share", "(1 - share) / np.log1p(1 / finest), share", "tests/test_grids.py::test_graded_steps_are_equal_in_its_clock"),
    Fault("graded: the finest detail is not taken off", "grids.py", "wrightomega(z) - finest", "wrightomega(z)", "tests/test_grids.py::test_graded_steps_are_equal_in_its_clock"),
    Fault("default: share of few steps for many", G + "default.py", "min(0.2, max(0.1, calls / 100))", "0.1", "tests/gaussian/test_default.py::test_every_number_of_calls_is_met_on_the_grid_of_the_formula"),
    Fault("default: one step too many", G + "default.py", "spaced(path.schedule, calls, start", "spaced(path.schedule, calls + 1, start", "tests/gaussian/test_default.py::test_every_number_of_calls_is_met_on_the_grid_of_the_formula"),
    Fault("tune: residuals weigh by their size", G + "tune.py", "omega = 1 / (middle + left)", "omega = middle + left", "tests/gaussian/test_tune.py::test_samples_that_went_to_another_mode_have_little_say"),
    Fault("tune: slope at the wrong end", G + "tune.py", "/ float(sigma[i - 1]))", "/ float(alpha[i - 1]))", "tests/gaussian/test_tune.py::test_the_teacher_is_true_at_every_noise_level"),
    Fault("tune: judged by the starts fitted to", G + "tune.py", "ends, unseen = teacher.end[half:], start[half:]", "ends, unseen = teacher.end[:half], start[:half]", "tests/gaussian/test_tune.py::test_the_errors_it_states_are_true"),
    Fault("step doubling: steps cut at their end", G + "tune.py", "(t, 0.5 * (t + s))", "(t, 0.1 * t + 0.9 * s)", "tests/gaussian/test_tune.py::test_step_doubling_estimates_the_error"),
    Fault("likelihood: Jacobian of the early stop lost", G + "likelihood.py", "scale = math.log(float(norm[1])) + math.log(float(alpha[0] / norm[0]))", "scale = math.log(float(norm[1]))", "tests/gaussian/test_likelihood.py::test_a_gaussian_has_its_own_density_from_the_paths_prior"),
    Fault("likelihood: Jacobian of the prior's norm lost", G + "likelihood.py", "scale = math.log(float(norm[1])) + math.log", "scale = math.log", "tests/gaussian/test_likelihood.py::test_a_gaussian_has_its_own_density_from_the_paths_prior"),
    Fault("likelihood: sign of the prior", G + "likelihood.py", "return start + d * scale", "return -start + d * scale", "tests/gaussian/test_likelihood.py::test_a_gaussian_has_its_own_density_from_the_paths_prior"),
    Fault("likelihood: sign of the levels' bits", G + "likelihood.py", "+ math.log2(levels)", "- math.log2(levels)", "tests/gaussian/test_likelihood.py::test_bits_of_uniform_levels"),
    Fault("likelihood: cells begin at their levels", G + "likelihood.py", "device=x_0.device) - 0.5) / levels", "device=x_0.device)) / levels", "tests/gaussian/test_likelihood.py::test_dequantisation_fills_the_cells"),
    Fault("flow: Simpson's four", G + "flow.py", "(1, 4, 1), strict", "(1, 2, 1), strict", "tests/gaussian/test_likelihood.py::test_a_gaussian_has_its_own_density_from_the_paths_prior"),
    Fault("flow: sign of the trace", G + "flow.py", "weights.append(-max(", "weights.append(max(", "tests/gaussian/test_likelihood.py::test_a_gaussian_has_its_own_density_from_the_paths_prior"),
    Fault("encoding: alpha of the first time forgotten", G + "inversion.py", "x_0 * _signal(denoiser, grid)", "x_0", "tests/gaussian/test_inversion.py::test_interpolation_of_a_gaussian_is_a_walk_of_its_whitened_states"),
    Fault("decoding: noise is drawn", G + "inversion.py", "grid, x_1, rng=Deterministic()", "grid, x_1, rng=__import__('undrift').core.Shared(0)", "tests/gaussian/test_inversion.py::test_a_random_sampler_cannot_decode"),
    Fault("walk: a and b swapped", G + "inversion.py", "for line in (1 - weight, weight)", "for line in (weight, 1 - weight)", "tests/gaussian/test_inversion.py::test_slerp_walks_the_great_circle"),
    Fault("walk: half of the angle", G + "inversion.py", "omega = 2 * torch.atan2", "omega = torch.atan2", "tests/gaussian/test_inversion.py::test_slerp_walks_the_great_circle"),
    Fault("localisation: noise without its root", G + "localisation.py", "alpha=(v - u) ** 0.5)", "alpha=v - u)", "tests/gaussian/test_localisation.py::test_an_euler_step_is_the_ancestral_step"),
    Fault("localisation: u inverted in the score", G + "localisation.py", "((1 + u) / u) ** 0.5 * (u *", "(u / (1 + u)) ** 0.5 * (u *", "tests/gaussian/test_localisation.py::test_score_identity_under_the_map"),
    Fault("Fokker-Planck: diffusion doubled", G + "fokker_planck.py", "0.5 * self.stochasticity**2 * g2\n", "self.stochasticity**2 * g2\n", "tests/gaussian/test_fokker_planck.py::test_marginals_are_followed_with_the_stated_order"),
    Fault("Fokker-Planck: forward and backward swapped", G + "fokker_planck.py", "0.5 * (1 - sign * self", "0.5 * (1 + sign * self", "tests/gaussian/test_fokker_planck.py::test_marginals_are_followed_with_the_stated_order"),
    Fault("Fokker-Planck: sign of the jump", G + "fokker_planck.py", "z = -drift * width / diffusion", "z = drift * width / diffusion", "tests/gaussian/test_fokker_planck.py::test_marginals_are_followed_with_the_stated_order"),
    # learning
    Fault("time law: sign of the slope", G + "times.py", "self.schedule.sigma(t) - self.schedule.f(t)", "self.schedule.sigma(t) + self.schedule.f(t)", "tests/gaussian/test_times.py"),
    Fault("importance: density for its inverse", G + "times.py", "torch.exp(-law.log_density(t))", "torch.exp(law.log_density(t))", "tests/gaussian/test_times.py"),
    Fault("objective: SNR not exponentiated", G + "objectives.py", "return schedule.log_snr(t).exp()", "return schedule.log_snr(t)", "tests/gaussian/test_objectives.py"),
    Fault("objective: alpha and sigma swapped", G + "objectives.py", "pad(path.schedule.alpha(t), x_0) * x_0 + pad(path.schedule.sigma(t), x_0) * z", "pad(path.schedule.sigma(t), x_0) * x_0 + pad(path.schedule.alpha(t), x_0) * z", "tests/gaussian/test_objectives.py"),
    Fault("average: exponent off by one", "training/ema.py", "** (self.gamma + 1)", "** (self.gamma + 2)", "tests/training"),
    Fault("training: labels dropped the wrong way", "training/step.py", "torch.where(silent.reshape(-1, *[1] * (cond.ndim - 1)), null, cond)", "torch.where(silent.reshape(-1, *[1] * (cond.ndim - 1)), cond, null)", "tests/training/test_step.py tests/training/test_loop.py"),
    Fault("bound: factor two in the KL", G + "elbo.py", "(0.5 * weight.square() / variance)", "(0.25 * weight.square() / variance)", "tests/gaussian/test_elbo.py"),
    Fault("bound: factor two in the prior", G + "elbo.py", "-float(0.5 * path", "-float(1.0 * path", "tests/gaussian/test_elbo.py"),
    Fault("facade: noise that hides half", "defaults.py", "math.sqrt(dim / (2 * gap))", "math.sqrt(dim / (4 * gap))", "tests/test_model.py"),
    Fault("clock change: condition lost", G + "denoiser.py", "return Reclocked(self.inner.given(cond), self.path)", "return Reclocked(self.inner.given(self.inner.null(cond)), self.path)", "tests/guidance"),
    Fault("guidance: impossible symbols counted", "laws/categorical.py", "torch.where(impossible, -torch.inf, guided)", "guided", "tests/guidance"),
    Fault("symbols: NaN drawn as symbol 0", "laws/parts.py", "torch.where(torch.isnan(cumulative[..., -1]), -1, index)", "index", "tests/test_simulate.py"),
    # data and training
    Fault('resume: moments lost', 'training/step.py', 'if f"adam.step.{name}" in state:', 'if False:', 'tests/training/test_resume.py'),
    Fault('resume: average not restored', 'training/step.py', 'for prefix, net in (("net.", self.net), ("ema.", self.ema.net)):', 'for prefix, net in (("net.", self.net),):', 'tests/training/test_resume.py'),
    Fault('resume: level sums lost', 'training/loop.py', 'self.levels.sums.copy_(sums)', 'self.levels.sums.zero_()', 'tests/training/test_resume.py'),
    Fault('order: every epoch the same', 'training/feed.py', 'counted(seed, "order", epoch)', 'counted(seed, "order", 0)', 'tests/training/test_feed.py'),
    Fault("noise: every process the first's", 'training/step.py', 'first, losses = self.group.rank * self.local, []', 'first, losses = 0, []', 'tests/training/test_distributed.py'),
    Fault('rate of the next step', 'training/step.py', 'rate = self.settings.rate(number)', 'rate = self.settings.rate(number + 1)', 'tests/training/test_step.py'),
    Fault('accumulation: sums for means', 'training/step.py', '(loss.sum() / len(x)).backward()', 'loss.mean().backward()', 'tests/training/test_loop.py'),
    Fault('stop: flag lost', 'training/loop.py', '        self.asked = True', '        self.asked = False', 'tests/training/test_loop.py'),
    Fault('recipe: digest without the seed', 'recipes.py', 'exclude={"measured"}', 'exclude={"measured", "seed"}', 'tests/test_recipes.py'),
    Fault('kept: held-out rows come by', 'codecs/kept.py', 'rest = rows[self._kept[rows]]', 'rest = rows', 'tests/codecs/test_kept.py'),
    Fault('samples: start from other rows', 'model.py', '_At(start[part].to(self.device))', '_At(start[: len(part)].to(self.device))', 'tests/test_fitting.py tests/test_model.py'),
    # bridges
    Fault("bridge: velocity without its noise", "bridge/path.py", "+ pad(spread, x_t) * residual", "+ 0 * pad(spread, x_t) * residual", "tests/bridge tests/grammar"),
    Fault("bridge: coupling weighed at twice the variance", "bridge/exact.py", "0.5 * excess / pad(", "0.25 * excess / pad(", "tests/bridge"),
    Fault("bridge: a for b in the step back", "bridge/path.py", "keep = q.b(s) / q.b(t)", "keep = q.a(s) / q.a(t)", "tests/bridge " + WINGS),
    Fault("bridge: gamma not squared in tilt", "bridge/path.py", "self.schedule.gamma(t).square() / a, signal", "self.schedule.gamma(t) / a, signal", "tests/bridge"),
    Fault("bridge: flip keeps its ends", "bridge/path.py", "return self.inner.b(1 - scalars(t))", "return self.inner.a(1 - scalars(t))", "tests/bridge"),
    # symbols
    Fault("discrete: survival ratio inverted", "discrete/path.py", "self.schedule.keep(t) / self.schedule.keep(s), like", "self.schedule.keep(s) / self.schedule.keep(t), like", "tests/discrete"),
    Fault("discrete: keep_t for keep_s in the step back", "discrete/path.py", "seen_from * (1 - keep_s) * pi", "seen_from * (1 - keep_t) * pi", "tests/discrete"),
    Fault("discrete: generator transposed", "discrete/path.py", "self.landing[:, None].expand(-1, self.symbols)", "self.landing[None, :].expand(self.symbols, -1)", "tests/discrete"),
    # evidence
    Fault("Frechet: trace term not doubled", "evidence/distances.py", "2 * ", "1 * ", "tests/evidence/test_distances.py"),
    # images
    Fault("codec: levels off by one", "codecs/images.py", "round(high - low) + 1", "round(high - low)", "tests/codecs"),
    # steering
    Fault("krylov: beta inverted", "core/krylov.py", "r + new / torch.where(rr > 0, rr, 1.0) * p", "r + rr / torch.where(new > 0, new, 1.0) * p", "tests/core/test_krylov.py"),
    Fault("Arnoldi: negative variances kept", "core/krylov.py", "total = values.clamp_min(0) + ridge", "total = values + ridge", "tests/core/test_arnoldi.py"),
    Fault("look: the noise enters at half", "core/seen.py", "torch.diag_embed(variance.to(a)", "torch.diag_embed(0.5 * variance.to(a)", "tests/core/test_seen.py tests/laws"),
    Fault("Implicit: half of the quadratic dropped", "laws/implicit.py", "return -0.5 * (r * solved).sum(-1)", "return -(r * solved).sum(-1)", "tests/laws/test_implicit.py"),
    Fault("Implicit: the solve is not seen twice", "laws/implicit.py", "if torch.is_grad_enabled():", "if False:", "tests/laws/test_implicit.py"),
    Fault("Normal: tilt at half", "laws/normal.py", "(flat * self.mean.flatten(1)).sum(1) + 0.5 * self.cov", "(flat * self.mean.flatten(1)).sum(1) + self.cov", "tests/laws/test_liftable.py"),
    Fault("Mixture: components keep their weights under a tilt", "laws/mixture.py", "torch.log_softmax(self.log_weights + self._lean(direction), -1)", "torch.log_softmax(self.log_weights + 0 * self._lean(direction), -1)", "tests/laws/test_liftable.py"),
    Fault("operator: adjoint sign", "operators.py", "return (y @ self.values.to(y)).reshape", "return (-y @ self.values.to(y)).reshape", "tests/test_operators.py"),
    Fault("potentials: lifted without absorbing", "guidance/potentials.py", "law = before.absorb(law)", "law = law", "tests/guidance/test_potentials.py"),
    Fault("potentials: the complement is a sign", "guidance/potentials.py", "return _log1mexp(self.potential.lift(law))", "return -self.potential.lift(law)", "tests/guidance/test_potentials.py"),
    Fault("second order: covariance doubled", "guidance/second_order.py", "return self.path.tilt(Point(torch.zeros_like(v)), v.detach(), self.t).mean", "return 2 * self.path.tilt(Point(torch.zeros_like(v)), v.detach(), self.t).mean", "tests/guidance/test_second_order.py"),
    Fault("twist: nested twists not joined", "guidance/twist.py", "return Twisted(denoiser.denoiser, denoiser.potential & potential)", "return Twisted(denoiser, potential)", "tests/guidance/test_twist.py"),
    Fault("particles: kernel and proposal swapped", "particles.py", "kernel.log_prob(x) - proposal.log_prob(x)", "proposal.log_prob(x) - kernel.log_prob(x)", "tests/test_particles.py"),
    Fault("particles: h_t forgotten", "particles.py", "torch.where(before == -torch.inf, -torch.inf, log_h - before)", "torch.where(before == -torch.inf, -torch.inf, log_h)", "tests/test_particles.py"),
    Fault("particles: the level of resampling forgotten", "particles.py", "torch.logsumexp(log_weights, -1) - math.log(n), 0.0)", "0.0 * torch.logsumexp(log_weights, -1), 0.0)", "tests/test_particles.py"),
    Fault("DPS: norm over the batch", "inverse/dps.py", "- self.likelihood.look.forward(law.mean), dim=-1)", "- self.likelihood.look.forward(law.mean))", "tests/inverse/test_dps.py"),
    Fault("DPS: the unit clock of t alone", "inverse/dps.py", "self._unit(path, t) * self._unit(path, s)", "self._unit(path, t) * self._unit(path, t)", "tests/inverse/test_dps.py"),
    Fault("row sums: a mean", "core/krylov.py", "b / (seen(torch.ones_like(b)).clamp_min(0) + noise)", "b / (seen(torch.ones_like(b)).clamp_min(0) / b.shape[-1] + noise)", "tests/core/test_row_sum.py"),
    Fault("likelihood: std for variance", "inverse/likelihood.py", "return std.square()", "return std", "tests/inverse/test_likelihood.py"),
    Fault("rescaled guidance: ratio inverted", "guidance/rescale.py", "torch.where(made > 0, wanted / made, 1.0)", "torch.where(made > 0, made / wanted, 1.0)", "tests/guidance/test_rescale.py"),
    Fault("CFG++: guided noise", "guidance/cfgpp.py", "alpha=b).add_(free.mean, alpha=c)", "alpha=b).add_(guided.mean, alpha=c)", "tests/guidance/test_cfgpp.py"),
    Fault("classifier guidance: factor two", "guidance/classifier.py", "strength(scale, signal) * signal, t)", "2 * strength(scale, signal) * signal, t)", "tests/guidance/test_classifier.py"),
    Fault("control: g^2 for g", "guidance/control.py", "pad(self.path.schedule.g2(t).sqrt(), x_t) * slope", "pad(self.path.schedule.g2(t), x_t) * slope", "tests/guidance/test_control.py"),
    Fault("worst case: 1/lambda", "guidance/robust.py", "return WorstCase(value, scale / s, (s / scale) * loss,", "return WorstCase(value, scale / s, (scale / s) * loss,", "tests/guidance/test_robust.py"),
    Fault("DDRM: level without alpha", "inverse/ddrm.py", "below = sigma_s < alpha_s * noise", "below = sigma_s < noise", "tests/inverse/test_ddrm.py"),
    Fault("DDNM: lambda inverted", "inverse/ddnm.py", "torch.where(brought > c, c / brought, 1.0)", "torch.where(brought > c, brought / c, 1.0)", "tests/inverse/test_ddnm.py"),
    Fault("DiffPIR: alpha dropped", "inverse/diffpir.py", "self.lambda_ * (alpha_t * noise).square()", "self.lambda_ * noise.square()", "tests/inverse/test_diffpir.py"),
    Fault("RePaint: t for s", "inverse/repaint.py", "s = ends(grid)[1][:, None]", "s = ends(grid)[0][:, None]", "tests/inverse/test_repaint.py"),
    Fault("DAPS: alpha_s for alpha_t in the spread", "inverse/daps.py", "spread = (variance / (schedule.alpha(t).square() +", "spread = (variance / (schedule.alpha(s).square() +", "tests/inverse/test_daps.py"),
    Fault("MCGdiff: the wrong twist divided out", "inverse/mcgdiff.py", "- twists[i].price(x)", "- twists[i + 1].price(x)", "tests/inverse/test_mcgdiff.py"),
    Fault("RED-diff: sign of the reward", "inverse/reddiff.py", "strength * (mu - law.mean) - slope(", "strength * (mu - law.mean) + slope(", "tests/inverse/test_reddiff.py"),
    Fault("guided rates: ratio inverted", "discrete/twist.py", "gains = (values[:, 1:] - values[:, :1])", "gains = (values[:, :1] - values[:, 1:])", "tests/discrete/test_twist.py"),
    Fault("box: the wrong half of a line", "laws/mass.py", "ends = torch.where(hi > 0, torch.zeros_like(hi), -torch.inf)", "ends = torch.where(hi < 0, torch.zeros_like(hi), -torch.inf)", "tests/laws/test_log_mass.py"),
    # evidence: figures
    Fault("features: variances for deviations", "evidence/features.py", "vectors[:, kept] / strength[kept].sqrt()", "vectors[:, kept] / strength[kept]", "tests/evidence/test_features.py"),
    Fault("features: n for n - 1 where rows are few", "evidence/features.py", "((len(data) - 1) * strength.clamp_min", "(len(data) * strength.clamp_min", "tests/evidence/test_features.py"),
    Fault("classifier: asked about what it was trained on", "evidence/two_sample.py", 'cross_val_predict(how, both.numpy(), side.numpy(), cv=cut, method="predict_proba")', "how.fit(both.numpy(), side.numpy()).predict_proba(both.numpy())", "tests/evidence/test_two_sample.py"),
    Fault("classifier: the larger set keeps its first points", "evidence/two_sample.py", "torch.randperm(len(z), generator=rng)[:size]", "torch.arange(size)", "tests/evidence/test_two_sample.py"),
    Fault("distances: radii in the data's own space", "evidence/measures.py", "reach = reaches(real.apart, k)", "reach = reaches(real.within, k)", "tests/evidence/test_measures.py"),
    Fault("distances: neighbours of all rows, not of a half", "evidence/measures.py", "min(NEIGHBOURS, n // 2 - 1, m - 1)", "min(NEIGHBOURS, n - 1, m - 1)", "tests/evidence/test_measures.py"),
    Fault("judge: statistics of the batch it is asked about", "evidence/judge.py", "return cls(body.eval(), head,", "return cls(body, head,", "tests/evidence/test_judge.py"),
    Fault("judge: place of a label for the label", "evidence/judge.py", "return self.classes[self.head(self.features(x)).argmax(1)]", "return self.head(self.features(x)).argmax(1)", "tests/evidence/test_judge.py"),
    Fault("evidence: floor and value exchanged", "evidence/report.py", "    values, floors = (\n", "    floors, values = (\n", "tests/evidence/test_report.py"),
    Fault("evidence: the judge's floor on its own points", "evidence/report.py", "judge.agreement(train, train_labels)", "judge.agreement(held_out, held_out_labels)", "tests/evidence/test_report.py"),
    Fault("evidence: an interval of one block for the mean of several", "evidence/report.py", "reach = 1.96 * error / len(blocks) ** 0.5", "reach = 1.96 * error", "tests/evidence/test_report.py"),
    Fault("evidence: the baseline is asked for the first labels", "evidence/report.py", "labels[torch.randperm(len(labels), generator=rng)[:size]]", "labels[:size]", "tests/evidence/test_report.py"),
    Fault("coverage: a point is its own neighbour", "evidence/coverage.py", "distances.kthvalue(k + 1, dim=1)", "distances.kthvalue(k, dim=1)", "tests/evidence/test_coverage.py"),
    Fault("coverage: expectation off by one", "evidence/coverage.py", "(real - i) / (samples + real - i)", "(real - i) / (samples + real - i + 1)", "tests/evidence/test_coverage.py"),
    Fault("baseline: n for n - 1", "evidence/baseline.py", "(len(data) - 1) ** 0.5", "len(data) ** 0.5", "tests/evidence/test_baseline.py"),
    Fault("jackknife: ratio inverted", "evidence/bootstrap.py", "math.sqrt(size / (n - size))", "math.sqrt((n - size) / size)", "tests/evidence/test_bootstrap.py"),
    Fault("interval: one tail for two", "evidence/bootstrap.py", "NormalDist().inv_cdf(0.5 + level / 2) * standard_error", "NormalDist().inv_cdf(level) * standard_error", "tests/evidence/test_bootstrap.py"),
    Fault("Wilson: half of the shift of the centre", "evidence/bootstrap.py", "share + z**2 / (2 * n)", "share + z**2 / (4 * n)", "tests/evidence/test_bootstrap.py"),
    Fault("columns: ties take the lowest rank", "evidence/columns.py", "np.cumsum(counts) - (counts - 1) / 2", "np.cumsum(counts) - (counts - 1)", "tests/evidence/test_columns.py"),
    Fault("Cramer's V: the larger side of the table", "evidence/columns.py", "(min(table.shape) - 1)", "(max(table.shape) - 1)", "tests/evidence/test_columns.py"),
    Fault("correlation ratio: levels for numbers", "evidence/columns.py", "return _ratio(_ranks(a), b)", "return _ratio(_ranks(b), a)", "tests/evidence/test_columns.py"),
    Fault("R2: truth and prediction exchanged", "evidence/predictor.py", "r2_score(test_y, model.predict(test_x))", "r2_score(model.predict(test_x), test_y)", "tests/evidence/test_predictor.py"),
    Fault("usefulness: the ceiling has more records", "evidence/predictor.py", "chosen = rng.permutation(len(real))[:n]", "chosen = rng.permutation(len(real))", "tests/evidence/test_predictor.py"),
    Fault("interval of samples: upper end off by one", "evidence/predictor.py", "ordered[:, count - cut]", "ordered[:, count - cut - 1]", "tests/evidence/test_predictor.py"),
    Fault("energy distance: all pairs for pairs of different points", "evidence/energy.py", "_sum(a, a) / (n * (n - 1))", "_sum(a, a) / (n * n)", "tests/evidence/test_energy.py"),
    Fault("energy distance: the first chunk's diagonal in all", "evidence/energy.py", "part.diagonal(start).zero_()", "part.diagonal().zero_()", "tests/evidence/test_energy.py"),
    # yardsticks
    Fault("yardstick: r for r^2", "training/levels.py", "power = noise.double().cpu().square()", "power = noise.double().cpu()", "tests/training/test_levels.py"),
    Fault("spectrum: measured where it was found", "training/levels.py", "one, other = rows[0::2], rows[1::2]", "one, other = rows[0::2], rows[0::2]", "tests/training/test_levels.py"),
    # columns and conditions
    Fault("silence: one uniform for the subset and its first entry", "codecs/conditions.py", "(u[:, 2:] < 0.5)", "(u[:, 1:-1] < 0.5)", "tests/codecs/test_conditions.py"),
    Fault("conditions: the first values for those of the rows", "codecs/conditions.py", "[values[i] for i in chosen]", "values[: len(chosen)]", "tests/codecs/test_conditions.py"),
    Fault("levels: decoded without their shares", "codecs/columns.py", "(x / SQRT2 + self._shares).argmax(1)", "x.argmax(1)", "tests/codecs/test_columns.py"),
    Fault("levels: odds for the share of empty cells", "codecs/columns.py", "self.counts[-1] / sum(self.counts) if", "self.counts[-1] / sum(self.counts[:-1]) if", "tests/codecs/test_columns.py"),
    Fault("dates: asked by the clock on the wall", "codecs/columns.py", "when.tz_convert(None) if when.tzinfo", "when.tz_localize(None) if when.tzinfo", "tests/codecs/test_columns.py"),
    Fault("lattice: unit of the values, not of their gaps", "codecs/cells.py", "np.gcd.reduce(np.diff(whole))", "np.gcd.reduce(whole)", "tests/codecs/test_columns.py"),
    # charts
    Fault("histogram: what lies beyond is dropped", "report/charts.py", "np.histogram(np.clip(v, low, high), edges)", "np.histogram(v, edges)", "tests/report/test_charts.py"),
    Fault("histogram: whole numbers lack a bin", "report/charts.py", "round(high - low) + 1", "round(high - low)", "tests/report/test_charts.py"),
    Fault("axis: ticks beyond its ends", "report/charts.py", "math.ceil(self.low / step - 1e-9)", "math.floor(self.low / step - 1e-9)", "tests/report/test_charts.py"),
    # noise shared by grids, routes, guided rows, units and words
    Fault("Brownian bridge: its ends swapped", "core/brownian.py", "(1 - share) * at_low + share * at_high", "share * at_low + (1 - share) * at_high", "tests/core/test_brownian.py"),
    Fault("Brownian bridge: spread of a free walk", "core/brownian.py", "math.sqrt(share * (high - middle))", "math.sqrt(high - middle)", "tests/core/test_brownian.py"),
    Fault("Brownian bridge: both halves share a name", "core/brownian.py", "(middle, high, 2 * name + 1)", "(middle, high, 2 * name)", "tests/core/test_brownian.py"),
    Fault("Brownian: variance for deviation", "core/brownian.py", "(self._last - before) / math.sqrt(length)", "(self._last - before) / length", "tests/core/test_brownian.py"),
    Fault("routes: the most calls", "routes.py", "return min(enough)", "return max(enough)", "tests/test_routes.py"),
    Fault("routes: root mean square for the median", "routes.py", "if error.median <= tolerance", "if error.rms <= tolerance", "tests/test_routes.py"),
    Fault("routes: those of every scale", "routes.py", "if of == scale]", "]", "tests/test_routes.py"),
    Fault("contrast: rows keep the first scales", "guidance/contrast.py", "scale[which.to(scale.device)]", "scale[: len(which)]", "tests/guidance/test_cfg.py::test_rows_follow_their_samples"),
    Fault("classifier-free: rows keep the first labels", "guidance/cfg.py", "self.model, self.cond[which], None", "self.model, self.cond[: len(which)], None", "tests/guidance/test_cfg.py::test_rows_follow_their_samples"),
    Fault("classifier-free: rows keep the first labels to avoid", "guidance/cfg.py", "else self.against[which]", "else self.against[: len(which)]", "tests/guidance/test_cfg.py::test_rows_follow_their_samples"),
    Fault("trust: scale forgotten", "model.py", "denoiser = self._steered(None if cond is None else cond[part].to(self.device), scale)\n            return gaussian.discretisation", "denoiser = self._steered(None if cond is None else cond[part].to(self.device), 1.0)\n            return gaussian.discretisation", "tests/test_model.py::test_trust_follows_what_is_asked_for_in_any_batches"),
    Fault("trust: the first noise for every batch", "model.py", "route, noise[part].to", "route, noise[: len(part)].to", "tests/test_model.py::test_trust_follows_what_is_asked_for_in_any_batches"),
    Fault("route: tuned at another scale", "model.py", "self.tuned.get((steps, float(scale)))", "self.tuned.get((steps, 1.0))", "tests/test_model.py::test_tuned_samples_are_closer_to_the_fine_solution"),
    Fault("array: sign of the Jacobian", "codecs/arrays.py", "return -places * sum", "return places * sum", "tests/codecs/test_arrays.py::test_the_jacobian_is_that_of_encoding"),
    Fault("array: Jacobian of one place a channel", "codecs/arrays.py", "return -places * sum", "return -sum", "tests/codecs/test_arrays.py::test_the_jacobian_is_that_of_encoding"),
    Fault("image: Jacobian of the whole range, not its half", "codecs/images.py", "math.log(2 / (self.high - self.low))", "math.log(1 / (self.high - self.low))", "tests/codecs/test_images.py::test_the_jacobian_is_that_of_encoding"),
    Fault("verdict: the less kind end of an interval", "report/words.py", 'figure.get("low" if lower else "high")', 'figure.get("high" if lower else "low")', "tests/report/test_words.py"),
    Fault("verdict: a baseline below its own floor", "report/words.py", "return kind > baseline > floor if lower", "return kind > baseline if lower", "tests/report/test_words.py"),
]  # fmt: skip


def plant(fault: Fault, folder: Path) -> Path:
    """A copy of the source with the fault in it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "src" / "undrift" / fault.file
    text = file.read_text()
    if text.count(fault.old) != 1:
        raise SystemExit(
            f"fault {fault.name!r}: its text stands {text.count(fault.old)} times in {fault.file}, not once; bring this file up to date"
        )
    file.write_text(text.replace(fault.old, fault.new))
    return folder / "src"


def notice(fault: Fault) -> tuple[Fault, bool, str, float]:
    """Plant a fault and run its tests; True if they fail by failing (and not by failing to run, or in time)."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = plant(fault, Path(folder))
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *fault.tests.split()]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    last = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return fault, done.returncode == 1 and "Timeout" not in last, last, time.perf_counter() - start


def main() -> None:
    """Plant all, print a line each, exit 1 if one went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="plant only faults whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults at a time")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if arguments.only.lower() in fault.name.lower()]
    missed = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, noticed, last, seconds in pool.map(notice, chosen):
            print(f"{'noticed' if noticed else 'MISSED '}  {seconds:5.1f} s  {fault.name:<50} {last[:110]}", flush=True)
            missed += [] if noticed else [fault.name]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} planted faults were noticed")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
