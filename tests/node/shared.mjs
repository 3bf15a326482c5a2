// What both scripts ask, of the server whose address is their argument.

import { z } from "zod";

export const baseURL = process.argv[2] + "/v1";
export const apiKey = "none";
export const bird = z.object({ kind: z.enum(["owl", "hen"]), tame: z.boolean() });

export async function gathered(pieces, read = (piece) => piece) {
  const found = [];
  for await (const piece of pieces) found.push(read(piece) ?? "");
  return found.join("");
}
