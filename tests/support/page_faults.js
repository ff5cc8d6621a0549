// What is wrong with a page, as a list of texts.
const faults = [];
const fault = (what, element) => faults.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
if (!document.documentElement.lang) faults.push('no language');
if (!document.title) faults.push('no title');
if (document.querySelectorAll('h1').length !== 1) faults.push('not one h1');
if (document.querySelectorAll('main').length !== 1) faults.push('not one main');
for (const entry of performance.getEntriesByType('resource')) {
    if (!entry.name.startsWith('data:')) faults.push(`loads ${entry.name}`);
}
for (const element of document.querySelectorAll('[src], link[href]')) {
    if (!(element.src || element.href).startsWith('data:')) fault('loads', element);
}
for (const element of document.querySelectorAll('script, iframe, object, embed, [style], [onclick]')) fault('not allowed', element);
for (const element of document.querySelectorAll('th:not([scope])')) fault('th without scope', element);
for (const element of document.querySelectorAll('table')) if (!element.caption) fault('table without caption', element);
for (const element of document.querySelectorAll('svg')) {
    const hidden = element.getAttribute('aria-hidden') === 'true';
    const named = element.querySelector('title') || element.hasAttribute('aria-label') || element.hasAttribute('aria-labelledby');
    if (!hidden && !(named && element.getAttribute('role'))) fault('svg without a name and a role', element);
}
for (const element of document.querySelectorAll('input, select')) {
    if (element.type !== 'hidden' && !element.labels?.length && !element.ariaLabel) fault('field without a label', element);
}
const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
if (new Set(ids).size !== ids.length) faults.push('an id that is there twice');

// Of a colour as computed styles have it: red, green, blue, alpha.
const colour = (text) => {
    const parts = text.match(/[\d.]+/g).map(Number);
    return text.startsWith('color(') ? [...parts.slice(0, 3).map((it) => it * 255), parts[3] ?? 1] : [...parts.slice(0, 3), parts[3] ?? 1];
};
const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((it) => (it /= 255) <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
        const found = colour(getComputedStyle(at).backgroundColor);
        if (found[3] === 1) return found;
    }
    return [255, 255, 255, 1];
};
for (const element of document.querySelectorAll('body *')) {
    const speaks = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const style = getComputedStyle(element);
    if (!speaks || style.visibility === 'hidden' || !element.getClientRects().length) continue;
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [light, dark] = [luminance(colour(ink)), luminance(behind(element))].sort((one, other) => other - one);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) fault(`contrast ${contrast.toFixed(2)}`, element);
}
return faults;
