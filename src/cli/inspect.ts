/** phoenix inspect, report and doctor: what says something and trains nothing. */
import { diagnose, formatDiagnosis } from '../commands/doctor.ts';
import { formatInspection, inspect } from '../commands/inspect.ts';
import { type InspectOptions, parseOptions, type ReportOptions } from '../commands/options/index.ts';
import { PhoenixError } from '../errors.ts';
import { writeReport } from '../report/report.ts';
import { reading, type Terminal } from './terminal.ts';

export async function runInspect(options: InspectOptions, { progress, signal, json, text }: Terminal): Promise<void> {
  const found = await inspect(options, { signal, onRead: reading(progress) });
  progress.stop();
  json(found);
  text(formatInspection(found));
}

export async function runReport(options: ReportOptions, { json, text }: Terminal): Promise<void> {
  const { dir, out } = parseOptions('report', options);
  const report = await writeReport(dir, out);
  json({ event: 'done', report });
  text(report);
}

export async function runDoctor({ json, text }: Terminal): Promise<void> {
  const diagnosis = await diagnose();
  json(diagnosis);
  text(formatDiagnosis(diagnosis));
  if (!diagnosis.backend) throw new PhoenixError('ERR_PHOENIX_LOAD', `No backend can be used: ${diagnosis.why}.`);
}
