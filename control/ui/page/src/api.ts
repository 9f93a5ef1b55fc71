// Requests to the agent.

import { useEffect, useState } from "preact/hooks";

/** Asks the agent; fails with its reason. */
export async function ask<T>(path: string, parameters: Record<string, string> = {}): Promise<T> {
  const query = new URLSearchParams(parameters).toString();
  let response: Response;
  try {
    response = await fetch(`/api/${path}${query ? `?${query}` : ""}`);
  } catch {
    throw new Error("`podgate ui` can't be reached: it has stopped");
  }
  if (response.status === 401)
    throw new Error("`podgate ui` was started again: open the URL it printed");
  const body = await response.json().catch(() => ({ error: `HTTP ${response.status}` }));
  if (!response.ok) throw new Error(body.error ?? `HTTP ${response.status}`);
  return body as T;
}

export interface Asked<T> {
  value?: T;
  error?: string;
}

/** An answer that is asked for again after each period, milliseconds, while the page is visible. */
export function useAnswer<T>(
  path: string | null,
  parameters: Record<string, string> = {},
  period = 0,
): Asked<T> {
  const key = JSON.stringify([path, parameters]);
  const [asked, setAsked] = useState<Asked<T> & { key?: string }>({});
  useEffect(() => {
    if (path === null) return;
    let ended = false;
    let timer = 0;
    const once = async () => {
      if (!document.hidden) {
        try {
          const value = await ask<T>(path, parameters);
          if (!ended) setAsked({ value, key });
        } catch (error) {
          if (!ended) setAsked((old) => ({ ...old, error: (error as Error).message, key }));
        }
      }
      if (period && !ended) timer = window.setTimeout(once, period);
    };
    void once();
    return () => {
      ended = true;
      window.clearTimeout(timer);
    };
  }, [key, period]);
  return asked.key === key ? asked : {};
}
