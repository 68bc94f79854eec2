// Opens /api-reference and unfolds every group of its contents.
import { inPage } from "./page.mjs";

await inPage(async (page, { url, groups }) => {
  await page.goto(`${url}/api-reference`);
  await page.getByRole("heading", { name: "Hapta", level: 1 }).waitFor();
  for (const group of groups) {
    const folded = page.getByRole("button", { name: `Open Group - ${group}` });
    if (await folded.count()) await folded.click();
    await page.getByRole("button", { name: `Close Group - ${group}` }).waitFor();
  }
  const contents = await page.locator("aside").innerText();
  await page.locator("aside").getByText("Push logs").click();
  await page.getByRole("heading", { name: "Push logs" }).waitFor();
  return { contents };
});
