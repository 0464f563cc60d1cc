/** Every option of Phoenix, once: a table per command says key, type, default, unit and help; all else derives from the tables. */
export { idleOptions } from './idle.ts';
export { demoOptions } from './methods.ts';
export { mergeOptions, OptionError, ofSimulation, parseOptions, type RawOptions } from './parse.ts';
export {
  type Command,
  type CoordinatorOptions,
  changeableOptions,
  type DemoOptions,
  type ExperimentOptions,
  type FederateOptions,
  type FinetuneOptions,
  type FinishOptions,
  type InspectOptions,
  type InviteOptions,
  type OptionRow,
  type OrderOptions,
  optionTable,
  type ReportOptions,
  type RevokeOptions,
  type SampleOptions,
  type Settings,
  type SiteCheckOptions,
  type SiteLeaveOptions,
  type SiteLogOptions,
  type SiteOptions,
  type SiteStatusOptions,
  type StatusOptions,
  type TrainOptions,
} from './tables.ts';
