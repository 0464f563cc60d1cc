/** The commands that have options, and the types of these. */
import { coordinatorTable, inviteTable, pauseTable, resumeTable, revokeTable, statusTable, stopTable } from './coordinator.ts';
import { demoTable } from './demo.ts';
import { experimentTable } from './experiment.ts';
import { federateTable } from './federate.ts';
import { finetuneTable } from './finetune.ts';
import { finishTable } from './finish.ts';
import { inspectTable } from './inspect.ts';
import { flagOf, isOption, type OptionsOf, type Placed, placed, required, type SettingsOf, type Table, type Where } from './option.ts';
import { reportTable } from './report.ts';
import { sampleTable } from './sample.ts';
import { siteCheckTable, siteLeaveTable, siteLogTable, siteStatusTable, siteTable } from './site.ts';
import { trainTable } from './train.ts';

const tables = {
  demo: demoTable,
  federate: federateTable,
  train: trainTable,
  finetune: finetuneTable,
  finish: finishTable,
  sample: sampleTable,
  experiment: experimentTable,
  report: reportTable,
  inspect: inspectTable,
  coordinator: coordinatorTable,
  invite: inviteTable,
  revoke: revokeTable,
  status: statusTable,
  pause: pauseTable,
  resume: resumeTable,
  stop: stopTable,
  site: siteTable,
  'site check': siteCheckTable,
  'site log': siteLogTable,
  'site status': siteStatusTable,
  'site leave': siteLeaveTable,
} satisfies Record<string, Table>;

export type Command = keyof typeof tables;

/** The checked options of a command: every key present, defaults filled in. */
export type Settings<C extends Command> = SettingsOf<(typeof tables)[C]>;

export interface DemoOptions extends Omit<OptionsOf<typeof demoTable>, 'data'> {}
export interface FederateOptions extends OptionsOf<typeof federateTable> {}
export interface TrainOptions extends OptionsOf<typeof trainTable> {}
export interface FinetuneOptions extends OptionsOf<typeof finetuneTable> {}
export interface FinishOptions extends OptionsOf<typeof finishTable> {}
export interface SampleOptions extends OptionsOf<typeof sampleTable> {}
export interface ExperimentOptions extends OptionsOf<typeof experimentTable> {}
export interface CoordinatorOptions extends OptionsOf<typeof coordinatorTable> {}
export interface InviteOptions extends OptionsOf<typeof inviteTable> {}
export interface RevokeOptions extends OptionsOf<typeof revokeTable> {}
export interface StatusOptions extends OptionsOf<typeof statusTable> {}
/** Those of `pause`, `resume` and `stop`. */
export interface OrderOptions extends OptionsOf<typeof pauseTable> {}
export interface ReportOptions extends OptionsOf<typeof reportTable> {}
export interface InspectOptions extends OptionsOf<typeof inspectTable> {}
export interface SiteOptions extends Omit<OptionsOf<typeof siteTable>, 'policy' | 'unit'> {}
export interface SiteCheckOptions extends OptionsOf<typeof siteCheckTable> {}
export interface SiteLogOptions extends OptionsOf<typeof siteLogTable> {}
export interface SiteStatusOptions extends OptionsOf<typeof siteStatusTable> {}
export interface SiteLeaveOptions extends OptionsOf<typeof siteLeaveTable> {}

export function tableOf(command: Command): Table {
  return tables[command];
}

/** The options of a command with their places, in the order of its help. */
export function optionsOf(command: Command): Placed[] {
  return placed(tableOf(command));
}

/** Whether a command has a group of options of this name. */
export function isGroup(command: Command, key: string): boolean {
  const table = tableOf(command);
  return Object.hasOwn(table, key) && !isOption(table[key]!);
}

/** One option as a command line shows it. */
export type OptionRow = {
  path: readonly string[];
  /** The path with dots: 'sharing.beta'. */
  name: string;
  /** '--share-beta'; for a positional one '<source>', or '[file]' if it may be left out. */
  flag: string;
  /** 'n' in '--local-images <n>'; absent for a flag. */
  placeholder?: string;
  choices?: readonly string[];
  unit?: string;
  default?: string | number | boolean;
  /** The default in words; absent if the option is required. */
  defaultText?: string;
  required: boolean;
  positional: boolean;
  /** A flag whose default is not simply false, so that it has a --no- form. */
  negatable: boolean;
  where?: Where;
  heading: string;
  help: string;
};

/** The options of a command, in the order of its help. */
export function optionTable(command: Command): OptionRow[] {
  return optionsOf(command).map((place) => {
    const { path, entry } = place;
    const { kind, unit, help, where, heading = 'Options' } = entry;
    const value = entry.default === required ? undefined : (entry.default as string | number | boolean | undefined);
    return {
      path,
      name: path.join('.'),
      flag: entry.positional ? positionalOf(path.join('.'), entry.default === required) : flagOf(place),
      placeholder: kind.placeholder,
      choices: kind.choices,
      unit,
      default: value,
      defaultText: entry.defaultText ?? (value === undefined || value === false ? undefined : String(value)),
      required: entry.default === required,
      positional: entry.positional ?? false,
      negatable: kind.placeholder === undefined && entry.default !== false,
      where,
      heading,
      help,
    };
  });
}

const positionalOf = (name: string, isRequired: boolean) => (isRequired ? `<${name}>` : `[${name}]`);

/** The options of a command that a resumed run may give other values, as 'samples.count'. */
export function changeableOptions(command: Command): string[] {
  return optionsOf(command)
    .filter(({ entry }) => entry.mayChange)
    .map(({ path }) => path.join('.'));
}
