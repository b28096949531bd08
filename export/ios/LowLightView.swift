import AVFoundation
import CoreML
import SwiftUI

/// The back camera, restored by the Core ML model that convert.py writes. Add `LowLight.mlpackage` to
/// the target, and NSCameraUsageDescription to its Info.plist.
@main
struct LowLightApp: App {
    @StateObject private var camera = Camera()

    var body: some Scene {
        WindowGroup {
            Group {
                if let frame = camera.restored {
                    Image(decorative: frame, scale: 1).resizable().scaledToFit()
                } else {
                    Text(camera.message)
                }
            }
            .onAppear(perform: camera.start)
        }
    }
}

/// Takes frames of 640x480, restores the newest one, and drops those that come meanwhile.
final class Camera: NSObject, ObservableObject, AVCaptureVideoDataOutputSampleBufferDelegate {
    @Published var restored: CGImage?
    @Published var message = "Opening the camera"
    private let session = AVCaptureSession()
    private let queue = DispatchQueue(label: "restore")
    private let context = CIContext()
    private var model: MLModel?

    func start() {
        AVCaptureDevice.requestAccess(for: .video) { granted in
            self.queue.async { granted ? self.open() : self.show("The camera is not allowed") }
        }
    }

    private func open() {
        do {
            guard let url = Bundle.main.url(forResource: "LowLight", withExtension: "mlmodelc"),
                  let device = AVCaptureDevice.default(for: .video)
            else { return show("LowLight.mlpackage or a camera is missing") }
            model = try MLModel(contentsOf: url)
            let output = AVCaptureVideoDataOutput()
            output.videoSettings = [
                kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA
            ]
            output.alwaysDiscardsLateVideoFrames = true
            output.setSampleBufferDelegate(self, queue: queue)
            session.sessionPreset = .vga640x480
            session.addInput(try AVCaptureDeviceInput(device: device))
            session.addOutput(output)
            session.startRunning()
        } catch {
            show("\(error.localizedDescription)")
        }
    }

    func captureOutput(
        _ output: AVCaptureOutput, didOutput sample: CMSampleBuffer, from connection: AVCaptureConnection
    ) {
        guard let model, let frame = CMSampleBufferGetImageBuffer(sample) else { return }
        do {
            let given = try MLDictionaryFeatureProvider(
                dictionary: ["frame": MLFeatureValue(pixelBuffer: frame)]
            )
            let result = try model.prediction(from: given)
            guard let pixels = result.featureValue(for: "restored")?.imageBufferValue else { return }
            let image = CIImage(cvPixelBuffer: pixels)
            let made = context.createCGImage(image, from: image.extent)
            DispatchQueue.main.async { self.restored = made }
        } catch {
            show("\(error.localizedDescription)")
        }
    }

    private func show(_ text: String) {
        DispatchQueue.main.async { self.message = text }
    }
}
