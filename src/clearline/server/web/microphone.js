// The microphone, or why there is none, in words that help.

const WHY = {
  NotAllowedError: "The microphone was not allowed. Allow it for this page (the symbol beside the address), then start again.",
  NotFoundError: "No microphone was found. Connect one, then start again.",
  NotReadableError: "Another program holds the microphone. Close it, then start again.",
};

// Browsers hide it from pages that came over http:// from another machine.
export const isAvailable = () => Boolean(window.isSecureContext && navigator.mediaDevices?.getUserMedia);

export async function openMicrophone(headphones) {
  try {
    return await navigator.mediaDevices.getUserMedia({
      // With headphones there is no echo to cancel, and the model hears the voice as it is.
      audio: { channelCount: 1, echoCancellation: !headphones, noiseSuppression: !headphones, autoGainControl: !headphones },
    });
  } catch (error) {
    throw new Error(WHY[error.name] ?? `The microphone cannot be used: ${error.message || error.name}.`);
  }
}
