/**
 * The button that copies the page's command line.
 */
import { byId } from "./dom.ts";

export function copyCommand(): void {
  const button = byId("copy");
  button?.addEventListener("click", () => {
    const code = button.parentElement?.querySelector("code");
    if (!code) return;
    const done = (text: string): void => {
      button.textContent = text;
      setTimeout(() => {
        button.textContent = "Copy";
      }, 1500);
    };
    const select = (): void => {
      getSelection()?.selectAllChildren(code);
      done("Selected");
    };
    // The clipboard may be closed to pages opened from a file.
    if (navigator.clipboard)
      navigator.clipboard.writeText(code.textContent ?? "").then(() => done("Copied"), select);
    else select();
  });
}
