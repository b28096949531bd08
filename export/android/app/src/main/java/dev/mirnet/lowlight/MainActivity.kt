package dev.mirnet.lowlight

import android.Manifest
import android.content.pm.PackageManager
import android.os.Bundle
import android.os.SystemClock
import android.util.Log
import android.util.Size
import android.widget.ImageView
import androidx.activity.result.contract.ActivityResultContracts
import androidx.appcompat.app.AppCompatActivity
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.core.resolutionselector.ResolutionSelector
import androidx.camera.core.resolutionselector.ResolutionStrategy
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.core.content.ContextCompat
import java.util.concurrent.Executors

/** The back camera, restored. Frames that come while one is restored are dropped. */
class MainActivity : AppCompatActivity() {
    private val executor = Executors.newSingleThreadExecutor()
    private lateinit var restorer: Restorer
    private lateinit var view: ImageView

    private val permission =
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
            if (granted) start() else finish()
        }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        view = ImageView(this).also(::setContentView)
        restorer = Restorer(this, "litert-int8.tflite")
        val camera = Manifest.permission.CAMERA
        if (ContextCompat.checkSelfPermission(this, camera) == PackageManager.PERMISSION_GRANTED) {
            start()
        } else {
            permission.launch(camera)
        }
    }

    private fun start() {
        val opening = ProcessCameraProvider.getInstance(this)
        opening.addListener({
            val strategy = ResolutionStrategy(
                Size(restorer.width, restorer.height), ResolutionStrategy.FALLBACK_RULE_NONE
            )
            val analysis = ImageAnalysis.Builder()
                .setResolutionSelector(
                    ResolutionSelector.Builder().setResolutionStrategy(strategy).build()
                )
                .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
                .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
                .build()
            analysis.setAnalyzer(executor, ::show)
            opening.get().bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, analysis)
        }, ContextCompat.getMainExecutor(this))
    }

    private fun show(frame: ImageProxy) = frame.use {
        val started = SystemClock.elapsedRealtime()
        val plane = it.planes[0]
        val restored = restorer.restore(plane.buffer, plane.rowStride)
        Log.i("LowLight", "${SystemClock.elapsedRealtime() - started} ms")
        runOnUiThread { view.setImageBitmap(restored) }
    }

    override fun onDestroy() {
        super.onDestroy()
        executor.execute(restorer::close) // behind the frame that is being restored
        executor.shutdown()
    }
}
