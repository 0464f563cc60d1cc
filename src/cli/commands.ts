/** The commands of phoenix, in the order of its help. */
import {
  type CoordinatorOptions,
  demoOptions,
  type ExperimentOptions,
  type FederateOptions,
  type FinetuneOptions,
  type FinishOptions,
  type InspectOptions,
  type InviteOptions,
  type OrderOptions,
  type ReportOptions,
  type RevokeOptions,
  type SampleOptions,
  type StatusOptions,
  type TrainOptions,
} from '../commands/options/index.ts';
import type { CommandLine } from './command-line.ts';
import { runCoordinator, runInvite, runOrder, runRevoke, runStatus } from './coordinator.ts';
import { runDemo } from './demo.ts';
import { runExperiment } from './experiment.ts';
import { runDoctor, runInspect, runReport } from './inspect.ts';
import { runFinetune, runSample } from './model.ts';
import { siteLines } from './site.ts';
import { runFederate, runFinish, runTrain } from './training.ts';

// A command line gives options of any kind. The function that takes them checks every one before it reads or writes anything.
export const commandLines: readonly CommandLine[] = [
  {
    name: 'demo',
    description: 'Simulates ten clients that each hold two classes of built-in shapes; with --sites they are real processes.',
    table: 'demo',
    defaults: demoOptions,
    examples: [
      ['about two minutes on two cores', 'phoenix demo'],
      ['the whole Phoenix method, in a folder of its own', 'phoenix demo --method phoenix --share-real --out runs/demo-phoenix'],
      ['coordinator, server and three sites as processes', 'phoenix demo --sites 3'],
    ],
    run: runDemo,
  },
  {
    name: 'federate',
    description: 'Simulates clients that each hold a part of a dataset, and trains one model over them.',
    table: 'federate',
    examples: [
      [
        'four clients with unequal classes, images of 32×32',
        'phoenix federate --data photos --size 32 --clients 4 --partition dirichlet:0.5 --out runs/photos',
      ],
      [
        'continue it to round 20',
        'phoenix federate --data photos --size 32 --clients 4 --partition dirichlet:0.5 --out runs/photos --resume --rounds 20',
      ],
    ],
    run: (options, terminal) => runFederate('federate', options as FederateOptions, terminal),
  },
  {
    name: 'train',
    description: 'Trains a model on one dataset in one place, to compare a federation with.',
    table: 'train',
    examples: [
      ['ten passes over a folder of images', 'phoenix train --data photos --size 32 --out runs/central'],
      [
        'conditioned on the class, with a grid after every checkpoint',
        'phoenix train --data photos --size 32 --class-conditional --sample-every 1',
      ],
    ],
    run: (options, terminal) => runTrain(options as TrainOptions, terminal),
  },
  {
    name: 'coordinator',
    description: 'Runs a federation of real sites from its folder: server, live page, rounds. Run it again to go on.',
    table: 'coordinator',
    examples: [
      ['a new federation that sites reach by a name', 'phoenix coordinator lung --host fed.example.org --size 64 --rounds 50'],
      ['the next run with the sites enrolled', 'phoenix coordinator lung --run second --size 64 --rounds 100'],
    ],
    run: (options, terminal) => runCoordinator(options as CoordinatorOptions, terminal),
  },
  {
    name: 'invite',
    description: 'Writes an invitation for one site, which serves once.',
    table: 'invite',
    examples: [['for a week', 'phoenix invite lung hospital-a']],
    run: (options, terminal) => runInvite(options as InviteOptions, terminal),
  },
  {
    name: 'revoke',
    description: 'Takes all rights of a site away.',
    table: 'revoke',
    examples: [['at once', 'phoenix revoke lung hospital-a']],
    run: (options, terminal) => runRevoke(options as RevokeOptions, terminal),
  },
  {
    name: 'status',
    description: 'Says how a running federation stands: rounds, and each site with its state and last trouble.',
    table: 'status',
    examples: [['once', 'phoenix status lung']],
    run: (options, terminal) => runStatus(options as StatusOptions, terminal),
  },
  {
    name: 'pause',
    description: 'Lets no new round of a federation begin, until phoenix resume; also over restarts of its coordinator.',
    table: 'pause',
    examples: [['after the round under way', 'phoenix pause lung']],
    run: (options, terminal) => runOrder('pause', options as OrderOptions, terminal),
  },
  {
    name: 'resume',
    description: 'Lets a paused federation go on.',
    table: 'resume',
    examples: [['with the next round', 'phoenix resume lung']],
    run: (options, terminal) => runOrder('resume', options as OrderOptions, terminal),
  },
  {
    name: 'stop',
    description: 'Ends the coordinator of a federation. Its next start goes on.',
    table: 'stop',
    examples: [['for the upgrade of its machine', 'phoenix stop lung']],
    run: (options, terminal) => runOrder('stop', options as OrderOptions, terminal),
  },
  ...siteLines,
  {
    name: 'finish',
    description: 'Tells a run, or the newest run of a federation, to finish: its learning rate falls, and it ends.',
    table: 'finish',
    examples: [
      ['a run without a known end, begun elsewhere with --rounds open', 'phoenix finish runs/photos'],
      ['with a fall over ten rounds', 'phoenix finish runs/photos --over 10'],
      ['the run of a federation of real sites', 'phoenix finish lung'],
    ],
    run: (options, terminal) => runFinish(options as FinishOptions, terminal),
  },
  {
    name: 'finetune',
    description: "Trains a model on one site's images: its personal layers if it has some, else the whole model.",
    table: 'finetune',
    examples: [
      ['a model of a run for the images of one more site', 'phoenix finetune runs/photos --data north --checkpoint north.safetensors'],
      [
        'one pass with a smaller learning rate',
        'phoenix finetune runs/photos --data north --checkpoint north.safetensors --epochs 1 --lr 0.0002',
      ],
    ],
    run: (options, terminal) => runFinetune(options as FinetuneOptions, terminal),
  },
  {
    name: 'sample',
    description: 'Samples images from a trained model: into a PNG, or many into a folder.',
    table: 'sample',
    examples: [
      ['64 images of the newest checkpoint of a run', 'phoenix sample runs/photos --grid samples.png'],
      ['16 images of the class cat, in 100 steps', 'phoenix sample runs/photos --n 16 --class cat --steps 100 --grid cats.png'],
      ['10,000 files in folders by class; the same command goes on after a stop', 'phoenix sample runs/photos --n 10000 --out drawn'],
    ],
    run: (options, terminal) => runSample(options as SampleOptions, terminal),
  },
  {
    name: 'experiment',
    description: 'Trains every cell of a grid of arms, partitions and seeds with an equal training budget, scores it and reports.',
    table: 'experiment',
    examples: [
      ['half a minute of work, to see that everything runs', 'phoenix experiment smoke'],
      ['what a grid of your own would cost', 'phoenix experiment grid.json --data photos --plan'],
    ],
    run: (options, terminal) => runExperiment(options as ExperimentOptions, terminal),
  },
  {
    name: 'inspect',
    description: 'Says what a dataset is read as: sizes, values, classes, sites, damaged and equal files.',
    table: 'inspect',
    examples: [
      ['for a person', 'phoenix inspect photos'],
      ['as a page with a contact sheet', 'phoenix inspect scans --out scans.html'],
    ],
    run: (options, terminal) => runInspect(options as InspectOptions, terminal),
  },
  {
    name: 'report',
    description: 'Writes report.html of a run, finished or not.',
    table: 'report',
    examples: [
      ['the report of a run', 'phoenix report runs/photos'],
      ['the report of a run folder that takes no files', 'phoenix report /archive/photos --out photos.html'],
      ['its path as JSON', 'phoenix report runs/photos --json'],
    ],
    run: (options, terminal) => runReport(options as ReportOptions, terminal),
  },
  {
    name: 'doctor',
    description: 'Says what was built, what this machine has, and which backend is used and why.',
    examples: [
      ['for a person', 'phoenix doctor'],
      ['for a program', 'phoenix doctor --json'],
    ],
    run: (_options, terminal) => runDoctor(terminal),
  },
];
