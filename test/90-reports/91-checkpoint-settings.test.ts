// What a checkpoint or a command line says of sampling is honoured, refused by name, or named in a warning.
import { cp, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { finetune } from '../../src/commands/finetune.ts';
import { idleOptions, rules } from '../../src/commands/options/idle.ts';
import { parseOptions } from '../../src/commands/options/index.ts';
import { optionsOf } from '../../src/commands/options/tables.ts';
import { sample } from '../../src/commands/sample.ts';
import { readCheckpoint, saveCheckpoint } from '../../src/ddpm/checkpoint/checkpoint.ts';
import { saveDiffusers } from '../../src/ddpm/checkpoint/diffusers.ts';
import { unetConfig, unetModel } from '../../src/ddpm/model/unet.ts';
import { noise } from '../../src/ddpm/noise.ts';
import { makeTable, type SchedulerName, schedulers } from '../../src/ddpm/schedulers/index.ts';
import { createSession } from '../../src/ddpm/session.ts';

const unet = unetConfig({
  height: 8,
  width: 8,
  inChannels: 3,
  blockOutChannels: [16],
  layersPerBlock: 1,
  attention: [false],
  normGroups: 8,
  dropout: 0,
});

let root: string;
/** A diffusers folder and a file of Phoenix's own, with random weights. */
test.before(async () => {
  root = await mkdtemp(join(tmpdir(), 'phoenix-settings-'));
  using session = createSession({ model: unetModel(unet), device: 'cpu', threads: 1 });
  await session.init(7n);
  const content = { params: session.params, table: session.parameters, unet, noise: {} };
  const folder = join(root, 'folder');
  await saveDiffusers(folder, content);
  await saveDiffusers(join(root, 'averaged'), { ...content, ema: session.params });
  // The layer before the output begins at 0: other weights make predictions that leave [-1,1].
  const weights = join(folder, 'unet', 'diffusion_pytorch_model.safetensors');
  const bytes = await readFile(weights);
  let word = 1;
  for (let i = 8 + Number(bytes.readBigUInt64LE()); i < bytes.length; i += 4) {
    word = (Math.imul(word, 1664525) + 1013904223) >>> 0;
    bytes.writeFloatLE((word / 2 ** 32 - 0.5) * 0.3, i);
  }
  await writeFile(weights, bytes);
  await (await readCheckpoint(folder)).load(session.params, undefined, session.parameters);
  await saveCheckpoint(join(root, 'own.safetensors'), { ...content, noise: { sampling: { clip: false } } });
});
test.after.always(() => rm(root, { recursive: true }));

let copies = 0;
/** A copy of the folder with other fields in its scheduler_config.json. */
async function folderWith(fields: object, from = 'folder'): Promise<string> {
  const copy = join(root, `copy-${copies++}`);
  await cp(join(root, from), copy, { recursive: true });
  await patch(join(copy, 'scheduler', 'scheduler_config.json'), fields);
  return copy;
}

async function patch(path: string, fields: object): Promise<void> {
  const before = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify({ ...before, ...fields }));
}

/** The pixels of an image, as text, and the warnings. */
async function draw(source: string, scheduler: SchedulerName, more: object = {}): Promise<{ pixels: string; warnings: string[] }> {
  const warnings: string[] = [];
  const onMessage = ({ text }: { text: string }) => void warnings.push(text);
  const options = { source, n: 1, steps: 10, scheduler, device: 'cpu', threads: 1, ...more } as const;
  const { pixels } = await sample(options, { onMessage });
  return { pixels: Buffer.from(pixels).toString('hex'), warnings };
}

const every: SchedulerName[] = ['ddpm', 'ddim', 'dpm-solver'];
const refused = (message: RegExp) => ({ code: 'ERR_PHOENIX_CHECKPOINT', message });

test('C1: clipping, variance, spacing, offset and last ᾱ of a scheduler change samples as they say', async (t) => {
  const plain = Object.fromEntries(await Promise.all(every.map(async (name) => [name, (await draw(join(root, 'folder'), name)).pixels])));
  const cases: [object, SchedulerName[]][] = [
    [{ clip_sample: false }, every],
    [{ clip_sample: false, clip_sample_range: 3 }, every],
    [{ variance_type: 'fixed_small' }, ['ddpm']],
    [{ variance_type: 'fixed_small_log' }, ['ddpm']],
    [{ timestep_spacing: 'trailing' }, ['ddpm', 'ddim']],
    [{ timestep_spacing: 'leading' }, ['dpm-solver']],
    [{ timestep_spacing: 'linspace' }, ['ddpm', 'ddim']], // for dpm-solver times move by one: not a pixel
    [{ steps_offset: 9 }, ['ddpm', 'ddim']],
    [{ set_alpha_to_one: false }, ['ddim']],
    [{ thresholding: false, rescale_betas_zero_snr: false, use_flow_sigmas: false, snr_shift_scale: null }, []],
  ];
  for (const [fields, changed] of cases) {
    const source = await folderWith(fields);
    for (const name of every) {
      const { pixels, warnings } = await draw(source, name);
      t.is(pixels !== plain[name], changed.includes(name), `${JSON.stringify(fields)} with ${name}`);
      t.deepEqual(warnings, []);
    }
  }
  t.is((await draw(await folderWith({ timestep_spacing: 'linspace' }), 'ddim', { spacing: 'leading' })).pixels, plain.ddim);
  t.is((await draw(await folderWith({ clip_sample: false }), 'ddim', { clip: true })).pixels, plain.ddim);
  t.is((await draw(await folderWith({ variance_type: 'fixed_small' }), 'ddpm', { variance: 'large' })).pixels, plain.ddpm);
  t.not((await draw(join(root, 'own.safetensors'), 'ddim')).pixels, plain.ddim, "a file of Phoenix's own");
});

test('C1: what the samplers here cannot do is refused with field and value', async (t) => {
  const cases: [object, RegExp][] = [
    [{ clip_sample_range: 3 }, /clip_sample_range is 3.*set it to 1, or clip_sample to false/],
    [{ clip_sample: 'nonsense' }, /clip_sample is "nonsense"/],
    [{ thresholding: true }, /thresholding is true/],
    [{ variance_type: 'learned' }, /variance_type is "learned".*fixed_small/],
    [{ variance_type: 'learned_range' }, /variance_type is "learned_range"/],
    [{ variance_type: 'fixed_large_log' }, /variance_type is "fixed_large_log"/],
    [{ variance_type: 'nonsense' }, /variance_type is "nonsense"/],
    [{ timestep_spacing: 'nonsense' }, /timestep_spacing is "nonsense"/],
    [{ steps_offset: -1 }, /steps_offset is -1/],
    [{ steps_offset: 1000 }, /sampling.*offset/],
    [{ set_alpha_to_one: 1 }, /set_alpha_to_one is 1/],
    [{ use_flow_sigmas: true }, /use_flow_sigmas is true/],
    [{ snr_shift_scale: 3 }, /snr_shift_scale is 3/],
  ];
  for (const [fields, message] of cases) await t.throwsAsync(draw(await folderWith(fields), 'ddim'), refused(message), String(message));
});

test('N10: options of samplers that are not here, and fields that nobody knows, are named in a warning', async (t) => {
  const cases: [object, RegExp | undefined][] = [
    [{ use_karras_sigmas: true, solver_order: 3 }, /solver_order \(3\), use_karras_sigmas \(true\)/],
    [{ algorithm_type: 'sde-dpmsolver++' }, /algorithm_type \("sde-dpmsolver\+\+"\)/],
    [{ final_sigmas_type: 'sigma_min' }, /final_sigmas_type/],
    [{ clip_smaple: false }, /not known here.*"clip_smaple" \(false\)/],
    [{ _class_name: 'PNDMScheduler' }, /PNDMScheduler is not among the samplers here/],
    [{ use_karras_sigmas: false, solver_order: 2, algorithm_type: 'dpmsolver++', lower_order_final: true, solver_p: null }, undefined],
  ];
  for (const [fields, message] of cases) {
    const { warnings } = await draw(await folderWith(fields), 'ddim');
    if (message === undefined) t.deepEqual(warnings, []);
    else t.regex(warnings.join('\n'), message);
  }
  const folder = await folderWith({});
  await patch(join(folder, 'unet', 'config.json'), { norm_num_gruops: 4, decay: 0.9999, _name_or_path: 'x' });
  t.regex((await draw(folder, 'ddim')).warnings.join('\n'), /unet.config\.json.*not known here.*: "norm_num_gruops" \(4\)\.$/);
});

test('N11: numbers that Python writes and JSON does not have are read, and so is what a class leaves out', async (t) => {
  const path = await folderWith({ _class_name: 'DPMSolverMultistepScheduler', lambda_min_clipped: 'X', clip_sample: undefined });
  const file = join(path, 'scheduler', 'scheduler_config.json');
  await writeFile(file, (await readFile(file, 'utf8')).replace('"X"', '-Infinity'));
  const { noise: read, warnings } = await readCheckpoint(path);
  t.deepEqual(warnings, []);
  t.like(read.sampling, { clip: false, spacing: 'linspace' }, 'that class does not clip, and spaces its times so');
  t.like((await readCheckpoint(await folderWith({ variance_type: undefined }))).noise.sampling, { clip: true, variance: 'small' });
});

test('C1: settings go on into what finetune writes, and into a diffusers folder', async (t) => {
  const sampling = { clip: false, variance: 'small', spacing: 'trailing', offset: 0, toImage: false } as const;
  const fields = { clip_sample: false, variance_type: 'fixed_small', timestep_spacing: 'trailing', set_alpha_to_one: false };
  const [source, checkpoint] = [await folderWith(fields), join(root, 'tuned.safetensors')];
  const warnings: unknown[] = [];
  const onMessage = (event: { level: string }) => void (event.level === 'warning' && warnings.push(event));
  const how = { epochs: 1, training: { batch: 4 }, device: 'cpu', threads: 1 } as const;
  await finetune({ source, data: 'synthetic:10', checkpoint, ...how }, { onMessage });
  t.deepEqual(warnings, []);
  const tuned = await readCheckpoint(checkpoint);
  t.deepEqual(tuned.noise.sampling, sampling);
  using session = createSession({ model: unetModel(unet), device: 'cpu', threads: 1 });
  const folder = join(root, 'again');
  await saveDiffusers(folder, { params: session.params, table: session.parameters, unet, noise: tuned.noise });
  t.deepEqual((await readCheckpoint(folder)).noise.sampling, sampling);
});

test('C1: times of linspace spacing and an offset are those of diffusers', (t) => {
  const schedule = noise();
  const times = (name: SchedulerName, steps: number, options: object) => schedulers[name](schedule, steps, options).map((row) => row.t);
  t.deepEqual(times('ddim', 5, { spacing: 'linspace' }), [999, 749, 500, 250, 0], 'np.linspace(0, 999, 5).round()[::-1]');
  t.deepEqual(times('ddpm', 7, { spacing: 'linspace' }), [999, 832, 666, 500, 333, 166, 0], 'halves to even numbers');
  t.deepEqual(times('dpm-solver', 4, { spacing: 'linspace' }), [999, 749, 500, 250], 'np.linspace(0, 999, 5).round()[::-1][:-1]');
  t.deepEqual(times('ddim', 5, { offset: 1 }), [801, 601, 401, 201, 1]);
  t.is(schedulers.ddim(schedule, 5, { toImage: false }).at(-1)?.c0, 0, 'from ᾱ of t = 0 to itself');
  t.throws(() => makeTable('ddim', schedule, 1000, { offset: 1 }), { code: 'ERR_PHOENIX_ARGUMENT', message: /do not fit into 1000 times/ });
  t.throws(() => makeTable('dpm-solver', schedule, 1000, { spacing: 'linspace' }), { message: /take fewer steps/ });
});

test('C2: the scheduler of a v model is found wherever it may lie', async (t) => {
  const asV = () => folderWith({ prediction_type: 'v_prediction' });
  const prediction = async (path: string) => (await readCheckpoint(path)).noise.prediction;
  const moved = (to: string) => async (path: string) => {
    await rename(join(path, 'scheduler', 'scheduler_config.json'), join(path, to));
    return path;
  };
  const places: [string, (path: string) => Promise<string>][] = [
    ['as saved', async (path) => path],
    ['under the other name', moved('scheduler/config.json')],
    ['beside unet/', moved('scheduler_config.json')],
    ['in unet/', moved('unet/scheduler_config.json')],
    ['the unet folder named', async (path) => join(path, 'unet')],
    [
      'a flat U-Net beside scheduler/',
      async (path) => {
        await cp(join(path, 'unet'), path, { recursive: true });
        await rm(join(path, 'unet'), { recursive: true });
        return path;
      },
    ],
  ];
  for (const [place, move] of places) t.is(await prediction(await move(await asV())), 'v', place);
  const { warnings } = await readCheckpoint(join(await asV(), 'unet'));
  t.regex(warnings.join('\n'), /is read from .*scheduler_config\.json\.$/, 'a file outside of the folder is named');
});

test('C2: without a scheduler the schedule must be said, and with one it may not', async (t) => {
  const source = await folderWith({});
  await t.throwsAsync(draw(source, 'ddim', { schedule: 'linear', prediction: 'eps' }), {
    code: 'ERR_PHOENIX_ARGUMENT',
    message: /scheduler_config\.json says the noise schedule.*leave schedule and prediction out/,
  });
  await t.throwsAsync(draw(join(root, 'own.safetensors'), 'ddim', { schedule: 'linear', prediction: 'eps' }), {
    code: 'ERR_PHOENIX_ARGUMENT',
    message: /own\.safetensors says the noise schedule/,
  });
  await rm(join(source, 'scheduler'), { recursive: true });
  await t.throwsAsync(draw(source, 'ddim'), refused(/no scheduler.scheduler_config\.json.*--schedule, --prediction/));
  t.throws(() => parseOptions('sample', { source, prediction: 'v' }), { code: 'ERR_PHOENIX_CONFIG', message: /go together/ });
  const said = await readCheckpoint(source, { noise: { kind: 'cosine', prediction: 'v' } });
  t.like(said.noise, { kind: 'cosine', prediction: 'v' });
  const linear = await draw(source, 'ddim', { schedule: 'linear', prediction: 'eps' });
  t.is(linear.pixels, (await draw(join(root, 'folder'), 'ddim')).pixels);
  t.not((await draw(source, 'ddim', { schedule: 'linear', prediction: 'v' })).pixels, linear.pixels);
});

test('C2: two scheduler files that differ are refused, and so is an EMA of another U-Net', async (t) => {
  const twice = await folderWith({});
  await cp(join(twice, 'scheduler', 'scheduler_config.json'), join(twice, 'scheduler_config.json'));
  t.is((await readCheckpoint(twice)).noise.prediction, 'eps');
  await patch(join(twice, 'scheduler_config.json'), { prediction_type: 'sample' });
  await t.throwsAsync(readCheckpoint(twice), refused(/say different things/));

  const averaged = await folderWith({}, 'averaged');
  t.true((await readCheckpoint(averaged)).hasEma);
  await patch(join(averaged, 'unet_ema', 'config.json'), { dropout: 0.3, decay: 0.9999, optimization_step: 10 });
  t.deepEqual((await readCheckpoint(averaged)).warnings, []);
  await patch(join(averaged, 'unet_ema', 'config.json'), { norm_num_groups: 4 });
  await t.throwsAsync(readCheckpoint(averaged), refused(/unet_ema.config\.json.*another U-Net: normGroups is 4 there and 8 in/));
});

test('C3: one step draws an image, or is refused', (t) => {
  for (const kind of ['linear', 'cosine'] as const) {
    const schedule = noise({ kind });
    for (const name of every) {
      const [only] = schedulers[name](schedule, 1);
      t.is(only?.t, 999, `${name}: from the noisiest time`);
      t.deepEqual([only?.cx, only?.c0, only?.cz], [0, 1, 0], `${name}: to the image that the network predicts`);
      t.throws(() => makeTable(name, schedule, 1, { spacing: 'leading' }), {
        code: 'ERR_PHOENIX_ARGUMENT',
        message: /One step of leading spacing visits t = 0 alone.*Take spacing trailing/,
      });
    }
    t.throws(() => makeTable('ddim', noise({ kind, sampling: { spacing: 'linspace' } }), 1), { message: /Take spacing trailing/ });
    t.is(makeTable('dpm-solver', schedule, 1, { spacing: 'linspace' })[0], 999);
  }
});

test('C4: an option that the chosen sampler does not have is refused', async (t) => {
  const cases: [object, RegExp][] = [
    [{ scheduler: 'ddpm', eta: 0 }, /eta \(--eta\) is an option of ddim, and the scheduler is ddpm/],
    [{ scheduler: 'dpm-solver', eta: 1 }, /eta.*the scheduler is dpm-solver/],
    [{ scheduler: 'ddim', variance: 'small' }, /variance \(--variance\) is an option of ddpm/],
  ];
  for (const [options, message] of cases)
    t.throws(() => parseOptions('sample', { source: 'x', ...options }), { code: 'ERR_PHOENIX_CONFIG', message });
  t.notThrows(() => parseOptions('sample', { source: 'x', scheduler: 'ddim', eta: 0 }));
  t.throws(() => makeTable('ddpm', noise(), 10, { eta: 0 }), { code: 'ERR_PHOENIX_ARGUMENT', message: /ddpm has no eta: it has variance/ });
  t.throws(() => schedulers['dpm-solver'](noise(), 10, { toImage: true }), { code: 'ERR_PHOENIX_ARGUMENT' });
  t.notThrows(() => makeTable('ddpm', noise(), 10, { eta: undefined }));
});

test('N17: options of federate that nothing in the run uses are named', (t) => {
  const paths = optionsOf('federate').map(({ path }) => path.join('.'));
  for (const { options } of rules) for (const name of options) t.true(paths.includes(name), name);
  const idle = (given: object, needs = {}) => {
    const options = { data: 'x', ...given };
    return idleOptions(options, parseOptions('federate', options), needs);
  };
  t.is(idle({}), undefined);
  t.is(idle({ sharing: { alpha: 0.3 } }), 'Nothing in this run uses --share-alpha (goes with --share-beta above 0).');
  t.is(idle({ sharing: { alpha: 0.3, beta: 0.1, consent: true } }), undefined);
  // Consent where nothing real is shared: none given, none asked for, or samples of the model.
  const consent = 'Nothing in this run uses --share-real (goes with --share-beta above 0 and --share-source real).';
  t.is(idle({ sharing: { consent: true } }), consent);
  t.is(idle({ sharing: { consent: true, beta: 0.1, source: 'synthetic' } }), consent);
  t.is(idle({ sharing: { consent: false } }), undefined);
  t.is(idle({ sharing: { alpha: undefined }, probe: {} }), undefined);
  t.regex(
    idle({ diversity: { pull: 1 }, serverStep: { beta1: 0.5 } })!,
    /uses --diversity-pull .*, --server-beta1 \(goes with --server-step/,
  );
  t.is(idle({ diversity: { pull: 1 }, strategy: 'diversity' }, { histogram: true }), undefined);
  t.regex(idle({ histogram: { bins: 4 } })!, /--bins/);
  t.is(idle({ histogram: { bins: 4 }, features: 'pixels8', probe: { every: 2 } }, { histogram: true }), undefined);
  t.regex(idle({ probe: { samples: 8 } }, { histogram: true })!, /--probe-samples/);
  t.is(idle({ probe: { samples: 8 } }, { vendi: true }), undefined);
  t.is(
    idle({ method: 'phoenix', sharing: { consent: true } }, { histogram: true, statistic: 'loss' }),
    undefined,
    'what a method brings is not given',
  );
});
