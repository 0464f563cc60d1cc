/**
 * What an option is, and what a table of options means. A table is the one place that says an option: the type of a command's options, its
 * checks, the command line and the rules of a resume derive from it.
 */
import type { Kind } from './kinds.ts';

/** Stands for a default where there is none and the option must be given. */
export const required = { required: true } as const;
export type Required = typeof required;

/**
 * Who decides an option once coordinator and sites are programs of their own: the coordinator, which sends it to the sites where they need
 * it; each site for itself; each of both for itself; or nobody, since only a simulation has it.
 */
export type Where = 'coordinator' | 'site' | 'both' | 'simulation';

/** One option. T is the type of its value, D that of its default. */
export type Option<T, D> = {
  kind: Kind<T>;
  /** `required`, a value, or undefined when the default comes from elsewhere (see defaultText). */
  default: D;
  /** The default in words, where it is no constant. */
  defaultText?: string;
  unit?: string;
  help: string;
  /** Its name on the command line where that is not its key with hyphens. */
  flag?: `--${string}`;
  /** Given without a name on the command line. */
  positional?: true;
  /** A resumed run may have another value than the run began with: it does not change what is learnt, or only how long. */
  mayChange?: true;
  /** Options of commands that have no counterpart among coordinator and sites do not say. */
  where?: Where;
  /** Its heading in the help of the command line; see `headed`. */
  heading?: string;
};

export function option<T, const D extends T | undefined | Required>(entry: Option<T, D>): Option<T, D> {
  return entry;
}

// biome-ignore lint/suspicious/noExplicitAny: an option of whatever type
export type AnyOption = Option<any, any>;

/** Options that belong together, one object in the API: `sharing: { beta, alpha }`. */
export type Group = { readonly [key: string]: AnyOption };

/** The options of a command, in the order of its help. */
export type Table = { readonly [key: string]: AnyOption | Group };

type Value<O> = O extends Option<infer T, infer D> ? (D extends undefined ? T | undefined : T) : never;

/** The checked options of a table: every key present, defaults filled in. */
export type SettingsOf<F> = { [K in keyof F]: F[K] extends AnyOption ? Value<F[K]> : SettingsOf<F[K]> };

// Asked in this direction, since without strictNullChecks, in a program that uses Phoenix, undefined extends everything.
type RequiredKeys<F> = { [K in keyof F]: F[K] extends Option<infer _, infer D> ? (Required extends D ? K : never) : never }[keyof F];
type Given<F> = F extends AnyOption ? Value<F> : { [K in keyof F]?: Given<F[K]> };

/** The options of a table as a user gives them: only what has no default must be there. */
export type OptionsOf<F> = { [K in RequiredKeys<F>]: Given<F[K]> } & { [K in Exclude<keyof F, RequiredKeys<F>>]?: Given<F[K]> };

export function isOption(entry: AnyOption | Group): entry is AnyOption {
  return 'kind' in entry && 'default' in entry;
}

/** Options under one heading of the help. */
export function headed<const F extends Table>(heading: string, table: F): F {
  const under = (entry: AnyOption | Group): AnyOption | Group =>
    isOption(entry) ? { ...entry, heading } : Object.fromEntries(Object.entries(entry).map(([key, inner]) => [key, { ...inner, heading }]));
  return Object.fromEntries(Object.entries(table).map(([key, entry]) => [key, under(entry)])) as F;
}

/** An option with its place: ['sharing', 'beta'] is options.sharing.beta. */
export type Placed = { path: readonly string[]; entry: AnyOption };

/** Every option of a table with its place, in the order of the help. */
export function placed(table: Table): Placed[] {
  return Object.entries(table).flatMap(([key, entry]) =>
    isOption(entry) ? [{ path: [key], entry }] : Object.entries(entry).map(([inner, option]) => ({ path: [key, inner], entry: option })),
  );
}

/** The name of an option on the command line: localImages → --local-images. */
export function flagOf({ path, entry }: Placed): string {
  return entry.flag ?? `--${path.at(-1)!.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
