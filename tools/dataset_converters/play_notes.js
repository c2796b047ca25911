// Play notes of a sound bank with FluidSynth; instrument_notes.py runs this.
//
// node play_notes.js PLAYER SYNTHESIZER BANK RATE NOTE_FRAMES CLIP_FRAMES < NOTES > SOUNDS
//
// PLAYER and SYNTHESIZER are the two scripts of js-synthesizer, BANK an .sf2 or .sf3 file. NOTES is
// a JSON array of [program, key, velocity]; program null plays the drum kit. SOUNDS are mono
// float32 samples, CLIP_FRAMES a note; zeros where the bank lacks the program.
"use strict";

const fs = require("fs");

console.log = console.error; // standard output is for sounds only
const [player, synthesizer, bank, ...numbers] = process.argv.slice(2);
const [rate, noteFrames, clipFrames] = numbers.map(Number);
const BLOCK_FRAMES = 64; // what FluidSynth renders at a time
const DRUMS = { channel: 9, bank: 128 };
const MELODY = { channel: 0, bank: 0 };

function write(samples) {
  const bytes = Buffer.from(samples.buffer);
  for (let done = 0; done < bytes.length; ) done += fs.writeSync(1, bytes, done);
}

async function main() {
  const { Synthesizer, waitForReady, disableLogging } = require(player);
  Synthesizer.initializeWithFluidSynthModule(require(synthesizer));
  await waitForReady();
  disableLogging();
  const synth = new Synthesizer();
  synth.init(rate, { reverbActive: false, chorusActive: false });
  const id = await synth.loadSFont(fs.readFileSync(bank));
  const font = synth.getSFontObject(id);
  for (const [program, key, velocity] of JSON.parse(fs.readFileSync(0, "utf8"))) {
    const part = program === null ? DRUMS : MELODY;
    const left = new Float32Array(clipFrames);
    const right = new Float32Array(clipFrames);
    if (font.getPreset(part.bank, program ?? 0)) {
      synth.midiProgramSelect(part.channel, id, part.bank, program ?? 0);
      synth.midiNoteOn(part.channel, key, velocity);
      synth.render([left.subarray(0, noteFrames), right.subarray(0, noteFrames)]);
      synth.midiNoteOff(part.channel, key);
      synth.render([left.subarray(noteFrames), right.subarray(noteFrames)]);
      // It must not be audible in the next clip: stop it, and let that take effect.
      synth.midiAllSoundsOff(part.channel);
      synth.render([new Float32Array(BLOCK_FRAMES), new Float32Array(BLOCK_FRAMES)]);
    }
    write(left.map((sample, i) => (sample + right[i]) / 2));
  }
}

// Not Node's own report: it would print the failing line, which has two million characters.
function fail(error) {
  console.error(String(error?.message ?? error).slice(0, 500));
  process.exit(1);
}
process.on("uncaughtException", fail);
main().catch(fail);
